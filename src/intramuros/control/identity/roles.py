"""What roles allow, said in the scopes that credentials carry. Pure.

A credential that acts as a person does what its own scopes and the person's roles both allow, in
the workspace it belongs to. Three things give a person scopes: the role in the organization, the
role in a workspace, and the built-in roles of the groups they are in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from intramuros.control.identity.principal import ALL_SCOPES, Scope

ADMIN: Final = "admin"
BILLING: Final = "billing"
MANAGED: Final = "managed"
RESTRICTED: Final = "workspace_restricted_developer"

_NOTHING: Final[frozenset[str]] = frozenset()
_MODELS: Final[frozenset[str]] = frozenset({Scope.INFERENCE})
_BUILD: Final[frozenset[str]] = frozenset({Scope.INFERENCE, Scope.DEVELOPER})
_RUN: Final[frozenset[str]] = _BUILD | {Scope.MANAGE_TUNNELS}

# What a role of the organization allows in the default workspace, to which everybody belongs.
_ORGANIZATION: Final[Mapping[str, frozenset[str]]] = {
    "user": _MODELS,
    "claude_code_user": _MODELS,
    BILLING: _MODELS,
    "developer": _BUILD,
    MANAGED: _NOTHING,  # only what their groups give
}
_WORKSPACE: Final[Mapping[str, frozenset[str]]] = {
    "workspace_user": _MODELS,
    RESTRICTED: _BUILD,
    "workspace_developer": _BUILD,
    "workspace_admin": _RUN,
    "workspace_billing": _NOTHING,
}
# How a member of the organization shows among the members of the default workspace.
_AT_HOME: Final[Mapping[str, str]] = {
    ADMIN: "workspace_admin",
    BILLING: "workspace_billing",
    "developer": "workspace_developer",
}


@dataclass(frozen=True)
class BuiltIn:
    """A role that is attached to groups; nobody can change what it gives."""

    id: str
    display_name: str
    scopes: tuple[Scope, ...]


ADMINISTRATOR: Final = BuiltIn("rbac_role_administrator", "Administrator", ALL_SCOPES)
BUILT_IN: Final = (
    ADMINISTRATOR,
    BuiltIn("rbac_role_developer", "Developer", (Scope.DEVELOPER, Scope.INFERENCE)),
    BuiltIn("rbac_role_model_user", "Model user", (Scope.INFERENCE,)),
    BuiltIn("rbac_role_tunnel_manager", "Tunnel manager", (Scope.MANAGE_TUNNELS,)),
)
BY_ID: Final[Mapping[str, BuiltIn]] = {role.id: role for role in BUILT_IN}


@dataclass(frozen=True)
class Standing:
    """Where a person stands in one workspace.

    Args:
        organization_role: their role in the organization.
        workspace_role: the role that somebody gave them in this workspace; None for none.
        default: whether it is the default workspace.
        group_roles: the ids of the built-in roles of their groups.
    """

    organization_role: str
    workspace_role: str | None
    default: bool
    group_roles: frozenset[str] = frozenset()


def implied(organization_role: str, *, default: bool) -> str | None:
    """Return the workspace role that follows from a role of the organization, or None.

    Administrators and billing members belong to every workspace, everybody to the default one.
    """
    if default:
        return _AT_HOME.get(organization_role, "workspace_user")
    return _AT_HOME[organization_role] if organization_role in (ADMIN, BILLING) else None


def ceiling(standing: Standing) -> frozenset[str]:
    """Return every scope that a person may use in a workspace.

    Groups give only to those who belong to the workspace, so that no group opens a workspace.
    """
    if standing.organization_role == ADMIN:
        return frozenset(ALL_SCOPES)
    if standing.default:
        own = _ORGANIZATION.get(standing.organization_role, _NOTHING)
    elif standing.workspace_role is not None:
        own = _WORKSPACE.get(standing.workspace_role, _NOTHING)
    else:
        return _NOTHING
    return own | given(standing.group_roles)


def given(role_ids: Iterable[str]) -> frozenset[str]:
    """Return what roles of groups give; never the organization's administration."""
    scopes = {scope for role_id in role_ids if role_id in BY_ID for scope in BY_ID[role_id].scopes}
    return frozenset(scopes - {Scope.ORG_ADMIN})
