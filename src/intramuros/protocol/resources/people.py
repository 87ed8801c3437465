"""People of the organization: users, invites, members of workspaces, groups and their roles.

Contract-2 section 20; the shapes are the SDK's (``types/beta/organization``).
"""

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from intramuros.protocol.resources.base import Request, Response, Timestamp

# ``admin`` is missing on purpose: the API cannot make one (contract-2 R364).
AssignableRole = Literal["billing", "claude_code_user", "developer", "managed", "user"]
OrganizationRole = Literal[
    "admin",
    "billing",
    "claude_code_user",
    "developer",
    "managed",
    "membership_admin",
    "owner",
    "primary_owner",
    "user",
]
InviteStatus = Literal["accepted", "expired", "pending"]
WorkspaceRole = Literal[
    "workspace_admin",
    "workspace_billing",
    "workspace_developer",
    "workspace_restricted_developer",
    "workspace_user",
]
GivenWorkspaceRole = Literal[
    "workspace_admin",
    "workspace_developer",
    "workspace_restricted_developer",
    "workspace_user",
]
# Controls and line ends; and what turns the direction of text, so that a name reads as another.
_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def check_label(name: str) -> str:
    """Return a name that people read in a list, without blanks around it.

    Raises:
        ValueError: nothing is left, or it holds what would break out of its line.
    """
    for char in name:
        if unicodedata.category(char) in _UNFIT or unicodedata.bidirectional(char) in _TURNS:
            raise ValueError(f"character U+{ord(char):04X} is not allowed in a name")
    if not name.strip():
        raise ValueError("must not be blank")
    return name.strip()


Label = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(check_label)]
Address = Annotated[str, StringConstraints(min_length=3, max_length=320)]
GroupIds = Annotated[list[str], Field(max_length=100)]


class UserUpdate(Request):
    """``POST /v1/organizations/users/{id}``."""

    role: AssignableRole


class InviteCreate(Request):
    """``POST /v1/organizations/invites``."""

    email: Address
    role: AssignableRole
    rbac_group_ids: GroupIds = []


class InviteAccept(Request):
    """``POST /x/invites/{id}/accept``: who it is that came."""

    name: Label


class UserMemberAdd(Request):
    """``POST /v1/organizations/workspaces/{id}/members``."""

    user_id: str
    workspace_role: GivenWorkspaceRole


class UserMemberUpdate(Request):
    """``POST /v1/organizations/workspaces/{id}/members/{user_id}``."""

    workspace_role: WorkspaceRole


class GroupCreate(Request):
    """``POST /v1/organizations/rbac_groups``."""

    name: Label


class GroupUpdate(Request):
    """``POST /v1/organizations/rbac_groups/{id}``; null leaves the name."""

    name: Label | None = None


class GroupRoles(Request):
    """``POST /x/rbac_groups/{id}/roles``: all the roles that the group is to have."""

    role_ids: Annotated[list[str], Field(max_length=100)]


class GroupMemberAdd(Request):
    """``POST /v1/organizations/rbac_groups/{id}/members``."""

    user_id: str


class User(Response):
    """A member of the organization."""

    id: str
    type: Literal["user"] = "user"
    added_at: Timestamp
    email: str
    name: str
    role: OrganizationRole


class Invite(Response):
    """An invite; ``accepted_at`` is null until somebody came."""

    id: str
    type: Literal["invite"] = "invite"
    accepted_at: Timestamp | None
    email: str
    expires_at: Timestamp
    invited_at: Timestamp
    rbac_group_ids: list[str]
    role: OrganizationRole
    status: Literal["accepted", "deleted", "expired", "pending"]


class UserMember(Response):
    """A user's membership of a workspace."""

    type: Literal["workspace_member"] = "workspace_member"
    user_id: str
    workspace_id: str
    workspace_role: WorkspaceRole


class Group(Response):
    """A group of users."""

    id: str
    type: Literal["rbac_group"] = "rbac_group"
    created_at: Timestamp
    name: str
    role_ids: list[str]
    source_type: Literal["direct"] = "direct"
    updated_at: Timestamp


class GroupMember(Response):
    """A user in a group."""

    type: Literal["rbac_group_member"] = "rbac_group_member"
    created_at: Timestamp
    email: str
    rbac_group_id: str
    user_id: str
