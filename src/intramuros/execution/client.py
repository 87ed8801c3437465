"""The control plane as the worker sees it, through the official SDK: work, events, results.

Only the wire contract is used, so any control plane that keeps it can be served. Every request
has a deadline, none is retried here: each loop has its own patience.

Errors::

    ControlPlaneError
    ├── Away            try again: network, 408, 409, 429, 5xx; may say when
    │   └── Raced       409: somebody else was faster, or the thing is in another state
    ├── LeaseLost       412 on a heartbeat: the item is no longer ours
    └── Refused         any other 4xx: repeating it will not help
"""

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

import anthropic
import anyio
import httpx2
from anthropic import AsyncAnthropic, omit
from anthropic.types.beta.environments import BetaSelfHostedWork

from intramuros.execution.dispatch import Event, ToolUse, is_id, read_event
from intramuros.execution.journal import Result
from intramuros.execution.mounted import Mounted, items, mounted_of
from intramuros.execution.server import Server, why_away
from intramuros.execution.work_secret import sessions_token
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import parse_rfc3339
from intramuros.protocol.envelope import WORKER_HEADER

log = logger("client")

# The longest time the contract lets a poll wait on the server (contract 9.9).
POLL_BLOCK_MS: Final = 999
HISTORY_PAGE: Final = 1000
NO_HEARTBEAT: Final = "NO_HEARTBEAT"
POOL_PATH: Final = "/x/pool/poll"

_CONNECT_S: Final = 10.0
_REQUEST_S: Final = 30.0
_POLL_S: Final = 15.0
# A stream says something at least every 15 s; silence for this long is a dead connection.
_STREAM_SILENCE_S: Final = 90.0
_POST_S: Final = 120.0
_DOWNLOAD_CHUNK: Final = 256 * 1024
_RETRYABLE: Final = frozenset({408, 409, 429})


class ControlPlaneError(Exception):
    """A request did not succeed."""


class Away(ControlPlaneError):
    """Try again later, after ``retry_after_s`` seconds when that is set."""

    def __init__(self, why: str, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class Raced(Away):
    """Somebody else was faster: look at the state again."""


class LeaseLost(ControlPlaneError):
    """The item belongs to the queue or to another worker: leave it alone."""


class Refused(ControlPlaneError):
    """Repeating the request will not help; ``status`` is the HTTP status."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Work:
    """One claimed item of the queue."""

    work_id: str
    environment_id: str
    kind: str
    session_id: str
    token: str | None = field(default=None, repr=False)
    """The item's own credential, from its secret (contract 2.5); None: use the key."""
    queued_at: datetime | None = None
    """When it was made, by the control plane's clock."""
    hosted: bool = False
    """Whether it is a cloud environment's, whose sandbox the control plane counts as its own."""


@dataclass(frozen=True)
class Beat:
    """The answer to a heartbeat."""

    last: str
    extended: bool
    state: str
    ttl_s: float


@dataclass(frozen=True)
class Skill:
    """A skill as a session names it; ``version`` may be ``latest``."""

    skill_id: str
    version: str


@dataclass(frozen=True)
class SkillVersion:
    """A version of a skill, by its own id."""

    id: str
    name: str


@dataclass(frozen=True)
class Attached:
    """A memory store of a session."""

    store_id: str
    mount_path: str
    read_only: bool


@dataclass(frozen=True)
class Upload:
    """A file that a session has mounted; ``place`` is its path in the sandbox."""

    file_id: str
    place: str


@dataclass(frozen=True)
class Session:
    """What the worker wants to know of a session."""

    status: str
    skills: tuple[Skill, ...] = ()
    stores: tuple[Attached, ...] = ()
    uploads: tuple[Upload, ...] = ()
    connected: bool = False
    """Whether an agent of it calls MCP servers."""
    repositories: tuple[Mounted, ...] = ()


class ControlPlane:
    """One environment's queue, with the environment key; or with a pool key, all cloud ones'.

    Args:
        environment: whose work to claim; None for that of all cloud environments, which only
            an Intramuros server hands out.
    """

    def __init__(self, server: Server, environment: str | None, key: str, worker_id: str) -> None:
        self.environment_id = environment
        self._worker_id = worker_id
        self._sdk = AsyncAnthropic(
            base_url=server.base_url,
            http_client=server.sdk_client(),
            auth_token=key,
            max_retries=0,
            timeout=httpx2.Timeout(_REQUEST_S, connect=_CONNECT_S),
            # Spans of the SDK could carry tool content past the outflow filter.
            open_telemetry=False,
        )

    async def poll(self, reclaim_older_than_ms: int | None) -> Work | None:
        """Claim the next item, waiting on the server for up to a second."""
        if self.environment_id is None:
            return await self._poll_pool(reclaim_older_than_ms)
        with mapped():
            item = await self._sdk.beta.environments.work.poll(
                self.environment_id,
                block_ms=POLL_BLOCK_MS,
                reclaim_older_than_ms=omit
                if reclaim_older_than_ms is None
                else reclaim_older_than_ms,
                anthropic_worker_id=self._worker_id,
                timeout=_POLL_S,
            )
        return None if item is None else read_work(item, self.environment_id)

    async def _poll_pool(self, reclaim_older_than_ms: int | None) -> Work | None:
        query: dict[str, object] = {"block_ms": POLL_BLOCK_MS}
        if reclaim_older_than_ms is not None:
            query["reclaim_older_than_ms"] = reclaim_older_than_ms
        with mapped():
            item = await self._sdk.get(
                POOL_PATH,
                cast_to=BetaSelfHostedWork,
                options={
                    "params": query,
                    "headers": {WORKER_HEADER: self._worker_id},
                    "timeout": _POLL_S,
                },
            )
        # An empty poll is the literal null, whatever the SDK's types say.
        return read_hosted(item) if cast("object", item) is not None else None

    async def ack(self, work: Work) -> None:
        """Take an item off the queue; :class:`Raced` when another worker has it."""
        # A pool key claims and does nothing else.
        sdk = self._sdk if self.environment_id is not None else self.item(work).sdk
        with mapped():
            await sdk.beta.environments.work.ack(work.work_id, environment_id=work.environment_id)

    def item(self, work: Work) -> "ItemClient":
        """Return the client for one item, with its own credential when it has one."""
        if work.token is None:
            return ItemClient(self._sdk, work)
        scoped = self._sdk.copy(auth_token=work.token, base_url=self._sdk.base_url)
        return ItemClient(scoped, work)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._sdk.close()


class ItemClient:
    """One work item and its session."""

    def __init__(self, sdk: AsyncAnthropic, work: Work) -> None:
        self._sdk = sdk
        self.work = work

    @property
    def sdk(self) -> AsyncAnthropic:
        """The official client, with the item's own credential when it has one."""
        return self._sdk

    async def heartbeat(self, expected: str, *, ttl_s: int | None = None) -> Beat:
        """Extend the lease.

        Args:
            expected: what the last heartbeat returned, or ``NO_HEARTBEAT``.
            ttl_s: how long the lease should be, in seconds; None leaves it to the server.
        """
        with mapped(heartbeat=True):
            answer = await self._sdk.beta.environments.work.heartbeat(
                self.work.work_id,
                environment_id=self.work.environment_id,
                expected_last_heartbeat=expected,
                desired_ttl_seconds=omit if ttl_s is None else ttl_s,
            )
        return read_beat(answer)

    async def stop(self) -> None:
        """End the item; one that has already stopped is fine (contract 9.35)."""
        try:
            with mapped():
                await self._sdk.beta.environments.work.stop(
                    self.work.work_id, environment_id=self.work.environment_id, force=True
                )
        except Raced:
            return

    async def session(self) -> Session:
        """Return the session's status, what its agent is to have and what it has mounted."""
        with mapped():
            session = await self._sdk.beta.sessions.retrieve(self.work.session_id)
        return read_session(session)

    async def skill_version(self, skill: Skill) -> SkillVersion:
        """Return the version that a session names (contract 24.1, 24.3)."""
        with mapped():
            raw = await self._sdk.beta.skills.versions.retrieve(
                skill.version, skill_id=skill.skill_id
            )
        id, name = getattr(raw, "id", None), getattr(raw, "name", None)
        if not isinstance(id, str) or not isinstance(name, str) or not id:
            raise Away("malformed skill version")
        return SkillVersion(id, name)

    async def download_skill(
        self, skill: Skill, version: SkillVersion, target: Path, max_bytes: int
    ) -> str:
        """Save a version's archive and return its SHA-256 in hex (contract 24.2).

        Raises:
            Refused: it is longer than ``max_bytes``.
        """
        digest, size = hashlib.sha256(), 0
        versions = self._sdk.beta.skills.versions.with_streaming_response
        with mapped():
            async with (
                versions.download(version.id, skill_id=skill.skill_id) as answer,
                await anyio.open_file(target, "wb") as file,
            ):
                async for chunk in answer.iter_bytes(_DOWNLOAD_CHUNK):
                    size += len(chunk)
                    if size > max_bytes:
                        raise Refused(f"over {max_bytes} bytes", 413)
                    digest.update(chunk)
                    await file.write(chunk)
        return digest.hexdigest()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[Event]]:
        """Open the event stream; inside, it is live. Iterating raises :class:`Away` when cut."""
        with mapped():
            stream = await self._sdk.beta.sessions.events.stream(
                self.work.session_id,
                timeout=httpx2.Timeout(_REQUEST_S, connect=_CONNECT_S, read=_STREAM_SILENCE_S),
            )
        try:
            yield _events(stream)
        finally:
            await stream.close()

    async def history(self) -> list[Event]:
        """Return all events so far, without their content."""
        pages = self._sdk.beta.sessions.events.list(self.work.session_id, limit=HISTORY_PAGE)
        try:
            with mapped():
                return [read_event(raw) async for raw in pages]
        except (TypeError, AttributeError) as error:
            # The SDK walks pages without checking their form.
            raise Away("malformed history") from error

    async def post(self, call: ToolUse, result: Result) -> None:
        """Send the result of a call (contract 22.14)."""
        with mapped():
            await self._sdk.beta.sessions.events.send(
                self.work.session_id,
                events=[result_event(call, result)],
                timeout=httpx2.Timeout(_POST_S, connect=_CONNECT_S),
            )


def result_event(call: ToolUse, result: Result) -> Any:  # noqa: ANN401  the SDK's own TypedDicts
    """Return the event that answers a call."""
    kind: Literal["user.custom_tool_result", "user.tool_result"]
    kind, key = (
        ("user.custom_tool_result", "custom_tool_use_id")
        if call.custom
        else ("user.tool_result", "tool_use_id")
    )
    return {
        "type": kind,
        key: call.event_id,
        "is_error": result.is_error,
        "content": result.content,
    }


def read_work(item: Any, environment_id: str) -> Work:  # noqa: ANN401  foreign data
    """Read a polled item.

    Raises:
        Away: it has no id, so it cannot even be given back.
    """
    work_id = getattr(item, "id", None)
    if not isinstance(work_id, str) or not is_id(work_id):
        raise Away("the control plane sent a work item without an id")
    data = getattr(item, "data", None)
    kind, session_id = getattr(data, "type", None), getattr(data, "id", None)
    return Work(
        work_id,
        environment_id,
        kind if isinstance(kind, str) else "",
        session_id if isinstance(session_id, str) and is_id(session_id) else "",
        sessions_token(getattr(item, "secret", None)),
        _time(getattr(item, "created_at", None)),
    )


def _time(text: object) -> datetime | None:
    try:
        return parse_rfc3339(text) if isinstance(text, str) else None
    except ValueError:
        return None


def read_hosted(item: object) -> Work:
    """Read a polled item of a cloud environment, which it names.

    Raises:
        Away: it has no id, or names no environment, or came without a token of its own.
    """
    environment_id = getattr(item, "environment_id", None)
    if not isinstance(environment_id, str) or not is_id(environment_id):
        raise Away("the control plane sent a work item without an environment")
    work = read_work(item, environment_id)
    if work.token is None:
        raise Away("the control plane sent a cloud environment's item without a token")
    return replace(work, hosted=True)


def read_session(raw: object) -> Session:
    """Read a session with the skills of all its agents; those of another form are left out.

    Raises:
        Away: a memory store of it has another form.
    """
    agent = getattr(raw, "agent", None)
    team = getattr(agent, "multiagent", None)
    crew = [*items(team, "agents"), *items(getattr(team, "subagents", None), "predefined_agents")]
    skills: dict[Skill, None] = {}
    for item in (item for one in (agent, *crew) for item in items(one, "skills")):
        skill_id, version = getattr(item, "skill_id", None), getattr(item, "version", None)
        if isinstance(skill_id, str) and skill_id and isinstance(version, str) and version:
            skills[Skill(skill_id, version)] = None
    status = str(getattr(raw, "status", ""))
    resources = getattr(raw, "resources", None) or ()
    connected = any(items(one, "mcp_servers") for one in (agent, *crew))
    stores, uploads = tuple(_stores(resources)), tuple(_uploads(resources))
    return Session(status, tuple(skills), stores, uploads, connected, mounted_of(resources))


def _stores(resources: Iterable[object]) -> Iterator[Attached]:
    for resource in resources:
        if getattr(resource, "type", None) != "memory_store":
            continue
        store_id = getattr(resource, "memory_store_id", None)
        mount_path = getattr(resource, "mount_path", None)
        if not isinstance(store_id, str) or not isinstance(mount_path, str):
            raise Away("malformed memory store of a session")
        # Exactly this word, as contract 25.23 has it.
        read_only = getattr(resource, "access", None) == "read_only"
        yield Attached(store_id, mount_path, read_only)


def _uploads(resources: Iterable[object]) -> Iterator[Upload]:
    for resource in resources:
        file_id, place = (getattr(resource, name, None) for name in ("file_id", "mount_path"))
        if getattr(resource, "type", None) != "file":
            continue
        if not is_id(file_id) or not isinstance(place, str):
            log.warning("file_of_unknown_form")
            continue
        yield Upload(str(file_id), place)


def read_beat(answer: object) -> Beat:
    """Read the answer to a heartbeat.

    Raises:
        Away: it has another form.
    """
    last, state = getattr(answer, "last_heartbeat", None), getattr(answer, "state", None)
    ttl_s = getattr(answer, "ttl_seconds", None)
    if not isinstance(last, str) or not isinstance(state, str) or not isinstance(ttl_s, int):
        raise Away("malformed answer to a heartbeat")
    return Beat(last, getattr(answer, "lease_extended", None) is True, state, float(ttl_s))


async def _events(stream: Any) -> AsyncIterator[Event]:  # noqa: ANN401  the SDK's stream type
    with mapped():
        async for raw in stream:
            yield read_event(raw)


@contextmanager
def mapped(*, heartbeat: bool = False) -> Iterator[None]:
    """Rename the SDK's errors; the message keeps no body, which could echo content."""
    try:
        yield
    except anthropic.APIStatusError as error:
        raise _by_status(error, heartbeat=heartbeat) from error
    except (anthropic.APIError, httpx2.HTTPError, OSError) as error:
        raise Away(why_away(error)) from error
    except ValueError as error:
        raise Away("malformed answer") from error


def _by_status(error: anthropic.APIStatusError, *, heartbeat: bool) -> ControlPlaneError:
    status = error.status_code
    why = f"HTTP {status}"
    if status == 412 and heartbeat:
        return LeaseLost(why)
    if status == 409:
        return Raced(why)
    # An error frame inside a stream carries the stream's own status 200 (contract 3.16).
    if 400 <= status < 500 and status not in _RETRYABLE:
        return Refused(why, status)
    return Away(why, _retry_after_s(error.response.headers.get("retry-after")))


def _retry_after_s(header: str | None) -> float | None:
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return min(seconds, 300.0) if seconds > 0 else None
