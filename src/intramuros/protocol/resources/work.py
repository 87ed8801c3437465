"""Work items of self-hosted environments (contract section 9)."""

from typing import Annotated, Literal

from pydantic import Field

from intramuros.protocol.resources.base import Request, Response

State = Literal["queued", "starting", "active", "stopping", "stopped"]


class WorkStop(Request):
    """``POST …/work/{id}/stop``."""

    force: bool | None = None


class WorkUpdate(Request):
    """``POST …/work/{id}``: text sets, null removes (contract 9.39)."""

    metadata: Annotated[dict[str, str | None], Field(max_length=1000)]


class WorkData(Response):
    """What an item is about (contract 9.4)."""

    type: Literal["session"] = "session"
    id: str


class Work(Response):
    """A work item; times are text in this family (contract 4.3)."""

    id: str
    type: Literal["work"] = "work"
    environment_id: str
    data: WorkData
    state: State
    secret: str | None = None
    metadata: dict[str, str]
    created_at: str
    acknowledged_at: str | None
    started_at: str | None
    latest_heartbeat_at: str | None
    stop_requested_at: str | None
    stopped_at: str | None


class WorkHeartbeat(Response):
    """The answer to a heartbeat (contract 9.25)."""

    type: Literal["work_heartbeat"] = "work_heartbeat"
    last_heartbeat: str
    lease_extended: bool
    state: State
    ttl_seconds: int


class WorkStats(Response):
    """The state of an environment's queue (contract 9.37)."""

    type: Literal["work_queue_stats"] = "work_queue_stats"
    depth: int
    pending: int
    oldest_queued_at: str | None
    workers_polling: int
