"""Who is calling: what a credential proved, and what it may do."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from intramuros.kernel.errors import NotFound, PermissionDenied


class CredentialKind(StrEnum):
    """What a secret is for; decided by look-up, never by the header that carried it."""

    API_KEY = "api_key"
    ENVIRONMENT_KEY = "environment_key"
    SESSIONS_TOKEN = "sessions_token"  # noqa: S105  a kind, not a secret
    POOL_KEY = "pool_key"
    FEDERATED_TOKEN = "federated_token"  # noqa: S105  a kind, not a secret


class Scope(StrEnum):
    """What an API key may do; a key does only what its scopes say."""

    DEVELOPER = "workspace:developer"
    INFERENCE = "workspace:inference"
    MANAGE_TUNNELS = "workspace:manage_tunnels"
    ORG_ADMIN = "org:admin"


ALL_SCOPES: Final = tuple(Scope)
DEFAULT_SCOPES: Final = (Scope.DEVELOPER, Scope.INFERENCE)

_NAMES: Final = {
    CredentialKind.API_KEY: "an API key",
    CredentialKind.ENVIRONMENT_KEY: "an environment key",
    CredentialKind.SESSIONS_TOKEN: "a sessions token",
    CredentialKind.POOL_KEY: "a pool key",
    CredentialKind.FEDERATED_TOKEN: "a federated token",
}


# Who reads and writes what a workspace has, each within its own bounds. A pool key only claims
# work: what its holder then does for a session, it does with that item's token.
OF_WORKSPACES: Final = tuple(kind for kind in CredentialKind if kind is not CredentialKind.POOL_KEY)
# Federated tokens do whatever API keys do, within their scopes (contract-2 R357, R362).
# What stands for a credential when a deployment's schedule acts.
SCHEDULE: Final = "schedule"
SCOPED: Final = frozenset({CredentialKind.API_KEY, CredentialKind.FEDERATED_TOKEN})


@dataclass(frozen=True)
class Principal:
    """The caller of one request.

    ``environment_id`` is set for environment keys and sessions tokens; ``session_id`` and
    ``work_id`` only for sessions tokens, which act for one work item of one session;
    ``service_account_id`` or ``user_id`` for credentials that act as one. ``scopes`` are what is
    allowed now: a user's roles have narrowed them. ``restricted`` is a user who may not read files.
    """

    kind: CredentialKind
    credential_id: str
    workspace_id: str
    scopes: frozenset[str] = field(default_factory=frozenset)
    environment_id: str | None = None
    session_id: str | None = None
    work_id: str | None = None
    service_account_id: str | None = None
    user_id: str | None = None
    restricted: bool = False

    @property
    def scheduled(self) -> bool:
        """Whether nobody calls, but a deployment's schedule has come."""
        return self.credential_id == SCHEDULE

    @property
    def scoped(self) -> bool:
        """Whether scopes say what this caller may do; others are narrower by nature."""
        return self.kind in SCOPED

    def require_kind(self, *kinds: CredentialKind) -> None:
        """Refuse a caller whose credential is of another kind.

        Raises:
            PermissionDenied: contract-1 AMB 1, naming the kinds that work.
        """
        if self.scoped and CredentialKind.API_KEY in kinds:
            return
        if self.kind not in kinds:
            wanted = " or ".join(_NAMES[kind] for kind in kinds)
            raise PermissionDenied(f"this endpoint takes {wanted}, not {_NAMES[self.kind]}")

    def require_scope(self, scope: Scope) -> None:
        """Refuse a caller that is no API key or federated token with this scope.

        Raises:
            PermissionDenied: naming the scope.
        """
        self.require_kind(CredentialKind.API_KEY)
        if scope not in self.scopes:
            shown = _NAMES[self.kind].partition(" ")[2]
            raise PermissionDenied(f"this {shown} lacks the scope {scope.value}")

    def require_content(self) -> None:
        """Refuse a user whose role in the workspace does not let them read files.

        Raises:
            PermissionDenied: a restricted developer.
        """
        if self.restricted:
            raise PermissionDenied("workspace_restricted_developer may not download content")

    def require_environment(self, environment_id: str) -> None:
        """Refuse an environment key or sessions token of another environment.

        API keys reach every environment of their workspace.

        Raises:
            NotFound: as though the environment did not exist, so that ids cannot be probed.
        """
        if self.environment_id is not None and self.environment_id != environment_id:
            raise NotFound(f"no environment {environment_id!r}")

    def require_session(self, session_id: str, environment_id: str) -> None:
        """Refuse a sessions token of another session, or a key of another environment.

        Raises:
            NotFound: as though the session did not exist (contract-1 AMB 43, 44).
        """
        foreign = self.session_id is not None and self.session_id != session_id
        if foreign or (self.environment_id is not None and self.environment_id != environment_id):
            raise NotFound(f"no session {session_id!r}")
