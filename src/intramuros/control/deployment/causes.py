"""Why a run could not start its session, in the contract's words (contract-2 R226 to R228).

What a deployment refers to is looked at before its session is created, because a refusal alone
would not say which of them is at fault. A refusal that remains is told by its type.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from intramuros.control.catalog import rosters, service, skills
from intramuros.control.catalog.kinds import (
    AGENT,
    ENVIRONMENT,
    FILE,
    MEMORY_STORE,
    VAULT,
    Kind,
)
from intramuros.control.catalog.service import Resource
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import (
    DomainError,
    IntramurosError,
    NotFound,
    RateLimited,
    Unavailable,
)

# Every type that a failed run can have → whether a scheduled run that fails so also pauses its
# deployment, and where that comes from on this server.
PAUSES: Final[Mapping[str, bool]] = {
    "environment_archived_error": True,
    "environment_not_found_error": True,
    "agent_archived_error": True,
    "vault_archived_error": True,
    "vault_not_found_error": True,
    "file_not_found_error": True,
    "skill_not_found_error": True,
    # What has no type of its own: a memory store that was deleted, and for a manual run the agent.
    "session_resource_not_found_error": True,
    "memory_store_archived_error": True,
    "workspace_archived_error": True,
    # Cannot occur: an installation is one organization, which nobody can disable.
    "organization_disabled_error": True,
    "self_hosted_resources_unsupported_error": True,
    # Cannot occur: MCP servers are called by the control plane, not from the environment.
    "mcp_egress_blocked_error": True,
    # A failure of this server's own; its log says more.
    "unknown_error": True,
    "session_rate_limited_error": False,
    "session_creation_rejected_error": False,
}

# Refusals that say themselves what is missing.
_BY_CODE: Final = {
    skills.NOT_FOUND_CODE: "skill_not_found_error",
    "file_expired": "file_not_found_error",
}
# All that a self-hosted environment can mount.
_MOUNTED_ANYWHERE: Final = frozenset({"memory_store"})
_MAX_MESSAGE_CHARS: Final = 1000


@dataclass(frozen=True)
class RunError:
    """Why a run failed: one of the types of :data:`PAUSES`, and a text for people."""

    type: str
    message: str


class CannotStart(IntramurosError):
    """The run has no session; whatever the transaction wrote of one must be undone."""

    def __init__(self, error: RunError) -> None:
        super().__init__(f"{error.type}: {error.message}")
        self.error = error


def check(tx: Tx, workspace_id: str, body: Mapping[str, Any]) -> None:
    """Make sure that everything a deployment refers to is there.

    Args:
        body: the deployment's configuration.

    Raises:
        CannotStart: the first thing that is not.
    """
    error = next(_missing(tx, workspace_id, body), None)
    if error is not None:
        raise CannotStart(error)


def of(error: Exception) -> RunError:
    """Return what a refusal, or a failure, of creating the session is to a run.

    Raises:
        Unavailable: the database is away, so that nothing is decided; try again.
    """
    if isinstance(error, Unavailable):
        raise error
    if isinstance(error, DBAPIError):
        raise Unavailable("the database failed; try again") from error
    if isinstance(error, CannotStart):
        return error.error
    if not isinstance(error, DomainError):
        # Its text may be anything.
        return RunError("unknown_error", "an unexpected error; the server's log says which")
    return RunError(_type(error), error.message[:_MAX_MESSAGE_CHARS])


def _type(error: DomainError) -> str:
    if error.hints.code in _BY_CODE:
        return _BY_CODE[error.hints.code]
    if isinstance(error, RateLimited):
        return "session_rate_limited_error"
    if isinstance(error, NotFound):
        return "session_resource_not_found_error"
    return "session_creation_rejected_error"


def _missing(tx: Tx, workspace_id: str, body: Mapping[str, Any]) -> Iterator[RunError]:
    archived = select(workspaces.c.archived_us).where(workspaces.c.id == workspace_id)
    if tx.scalar(archived) is not None:
        yield RunError("workspace_archived_error", f"workspace `{workspace_id}` is archived")
    look = _Look(tx, workspace_id)
    for agent_id in _agents(tx, workspace_id, body["agent"]):
        yield from look.at(AGENT, agent_id, "session_resource_not_found_error")
    yield from look.at(ENVIRONMENT, body["environment_id"])
    yield from _unsupported(look.found.get(body["environment_id"]), body["resources"])
    for vault_id in body["vault_ids"]:
        yield from look.at(VAULT, vault_id)
    for resource in body["resources"]:
        if resource["type"] == "memory_store":
            missing = "session_resource_not_found_error"
            yield from look.at(MEMORY_STORE, resource["memory_store_id"], missing)
    for file_id in _files(body):
        yield from look.at(FILE, file_id)


def _agents(tx: Tx, workspace_id: str, pinned: Mapping[str, Any]) -> Iterator[str]:
    """Yield the deployment's agent, and those that it may delegate to (R226)."""
    yield pinned["id"]
    agent = service.get(tx, workspace_id, AGENT, pinned["id"], pinned["version"])
    for team in rosters.teams(agent.body["multiagent"] or {"type": "coordinator", "agents": []}):
        yield from (entry["id"] for entry in team if entry["type"] == "agent")


@dataclass
class _Look:
    tx: Tx
    workspace_id: str

    def __post_init__(self) -> None:
        self.found: dict[str, Resource] = {}

    def at(self, kind: Kind, resource_id: str, missing: str | None = None) -> Iterator[RunError]:
        """Yield what is wrong with a resource; ``missing`` is the type if it is not there."""
        try:
            found = service.get(self.tx, self.workspace_id, kind, resource_id)
        except NotFound:
            gone = f"{kind.noun} `{resource_id}` does not exist"
            yield RunError(missing or f"{kind.name}_not_found_error", gone)
            return
        self.found[resource_id] = found
        if found.archived_us is not None:
            gone = f"{kind.noun} `{resource_id}` is archived"
            yield RunError(f"{kind.name}_archived_error", gone)


def _unsupported(
    environment: Resource | None, resources: list[Mapping[str, Any]]
) -> Iterator[RunError]:
    if environment is None or environment.body["config"]["type"] != "self_hosted":
        return
    for resource in resources:
        if resource["type"] not in _MOUNTED_ANYWHERE:
            why = f"a {resource['type']} resource needs a cloud environment"
            yield RunError("self_hosted_resources_unsupported_error", why)


def _files(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files that a deployment names, as resources or in its events."""
    for resource in body["resources"]:
        if resource["type"] == "file":
            yield resource["file_id"]
    for event in body["initial_events"]:
        for block in event.get("content") or ():
            source = block.get("source") or {}
            if source.get("type") == "file":
                yield source["file_id"]
        rubric = event.get("rubric") or {}
        if rubric.get("type") == "file":
            yield rubric["file_id"]
