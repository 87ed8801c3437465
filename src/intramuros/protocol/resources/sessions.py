"""Sessions and threads (contract sections 10 and 19)."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, field_validator

from intramuros.protocol.events import UserDefineOutcome, UserMessage
from intramuros.protocol.resources.agents import AgentParam, McpServers, distinct_servers
from intramuros.protocol.resources.base import (
    Metadata,
    MetadataPatch,
    Request,
    Response,
    Timestamp,
)
from intramuros.protocol.resources.budgets import BudgetLimit, Money
from intramuros.protocol.resources.memory import MemoryStoreParam
from intramuros.protocol.resources.mounts import FileParam
from intramuros.protocol.resources.repositories import RepositoryParam
from intramuros.protocol.resources.tools import Tool

MAX_INITIAL_EVENTS: Final = 50
MAX_VAULTS: Final = 100
MAX_RESOURCES: Final = 508  # 500 files and 8 memory stores (contract 11.1)

Id = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Title = Annotated[str, StringConstraints(max_length=512)]
# What may be attached to a session when it is created.
ResourceParam = Annotated[
    MemoryStoreParam | FileParam | RepositoryParam, Field(discriminator="type")
]
SessionStatus = Literal["rescheduling", "running", "idle", "terminated"]
InitialEvent = Annotated[UserMessage | UserDefineOutcome, Field(discriminator="type")]


class SessionCreate(Request):
    """``POST /v1/sessions``."""

    agent: AgentParam
    environment_id: Id
    title: Title | None = None
    metadata: Metadata | None = None
    initial_events: Annotated[list[InitialEvent], Field(max_length=MAX_INITIAL_EVENTS)] | None = (
        None
    )
    resources: Annotated[list[ResourceParam], Field(max_length=MAX_RESOURCES)] | None = None
    vault_ids: Annotated[list[Id], Field(max_length=MAX_VAULTS)] | None = None
    budget: BudgetLimit | None = None

    @field_validator("initial_events")
    @classmethod
    def _one_outcome(cls, events: list[InitialEvent] | None) -> list[InitialEvent] | None:
        if sum(isinstance(event, UserDefineOutcome) for event in events or ()) > 1:
            raise ValueError("at most one user.define_outcome")
        return events


class SessionAgentUpdate(Request):
    """The parts of a session's agent that may change; each replaces in full (contract 10.17)."""

    tools: list[Tool] = []
    mcp_servers: McpServers = []

    _servers = field_validator("mcp_servers")(distinct_servers)


class SessionUpdate(Request):
    """``POST /v1/sessions/{id}``: what is not sent stays (contract 10.16)."""

    title: Title | None = None
    metadata: MetadataPatch | None = None
    agent: SessionAgentUpdate | None = None
    budget: BudgetLimit | None = None
    vault_ids: list[str] | None = None


class CacheCreation(Response):
    """Tokens written to the prompt cache, by lifetime (contract 10.29)."""

    ephemeral_5m_input_tokens: int
    ephemeral_1h_input_tokens: int


class ServerToolUse(Response):
    """Calls of tools that the server runs itself."""

    web_search_requests: int
    web_fetch_requests: int


class Usage(Response):
    """What a session or thread has used since it began.

    Absent rather than null: ``list_cost``, where something had no list price (contract 10.28).
    """

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation: CacheCreation
    active_seconds: float
    server_tool_use: ServerToolUse
    list_cost: Money | None = None


class SessionStats(Response):
    """How long a session has existed and run."""

    active_seconds: float
    duration_seconds: float


class ThreadStats(SessionStats):
    """The same of a thread."""

    startup_seconds: float


class Session(Response):
    """A session."""

    id: str
    type: Literal["session"] = "session"
    status: SessionStatus
    agent: dict[str, Any]
    environment_id: str
    title: str | None
    metadata: dict[str, str]
    resources: list[dict[str, Any]]
    vault_ids: list[str]
    budget: BudgetLimit | None = None
    deployment_id: str | None = None
    outcome_evaluations: list[dict[str, Any]] = []
    stats: SessionStats
    usage: Usage
    created_at: Timestamp
    updated_at: Timestamp
    archived_at: Timestamp | None


class DeletedSession(Response):
    """The answer to a deletion (contract 10.23)."""

    id: str
    type: Literal["session_deleted"] = "session_deleted"


class Thread(Response):
    """A line of work within a session."""

    id: str
    type: Literal["session_thread"] = "session_thread"
    session_id: str
    parent_thread_id: str | None = None
    workflow_run_id: str | None = None
    agent: dict[str, Any]
    status: SessionStatus
    stats: ThreadStats | None
    usage: Usage | None
    created_at: Timestamp
    updated_at: Timestamp
    archived_at: Timestamp | None
