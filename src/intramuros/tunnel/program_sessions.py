"""A program behind a route: each MCP session has one of its own, and nobody else speaks to it.

The official SDK speaks HTTP to the caller; messages pass to the program and back as they are. A
session belongs to whom it was opened for. When its program ends, every call that is open is
answered with an error, the session with it, and the caller's next one starts a new program: at
once, or after a while if it keeps failing. A connection that breaks ends no call: its caller comes
back for what followed, and finds it kept.

Source: MCP 2025-11-25, transports and lifecycle. Callers of 2026-07-28 are told to open a session.
"""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import anyio
import mcp_types
from anyio.abc import TaskGroup, TaskStatus
from mcp.server.streamable_http import GET_STREAM_KEY, StreamableHTTPServerTransport
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, backoff_s
from intramuros.tunnel.confine import Launch, started
from intramuros.tunnel.conversation import Conversation
from intramuros.tunnel.exchange import LIMITED_CODE
from intramuros.tunnel.in_process import Message, Receive, Scope, Send
from intramuros.tunnel.kept_events import KeptEvents, Shelf
from intramuros.tunnel.programs import SESSIONS

log = logger("program")

PATH: Final = "/mcp"
_SESSION: Final = b"mcp-session-id"
_VERSION: Final = b"mcp-protocol-version"
_LAST_EVENT: Final = b"last-event-id"
# When callers shall come back that lost their connection.
RETRY_MS: Final = 500
SWEEP_S: Final = 30.0
PART_S: Final = 5.0
# Sessions end when their callers are done; nobody knows when that is.
FULL_RETRY_S: Final = 10
_BACKOFF_S: Final = 1.0
_BACKOFF_CAP_S: Final = 30.0


@dataclass
class _Session:
    """One caller's connection, as HTTP knows it."""

    transport: StreamableHTTPServerTransport
    kept: KeptEvents
    owner: object
    sharers: frozenset[object] = frozenset()
    """For whom it counts."""
    posts: int = 0
    """Requests that wait for their answers, or for the last of them to be sent."""
    quiet: anyio.Event = field(default_factory=anyio.Event)
    """Set whenever there are none."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Ends the session when it is cancelled."""
    ended: anyio.Event = field(default_factory=anyio.Event)

    @contextmanager
    def posting(self, method: str, after: str) -> Iterator[None]:
        """Count a request, unless it is one that stays open for as long as the session.

        Args:
            method: HTTP's.
            after: the id of the event whose stream is taken up; empty if none is.
        """
        if method == "GET" and not self.kept.awaits_answer(after):
            yield
            return
        if self.posts == 0:
            self.quiet = anyio.Event()
        self.posts += 1
        try:
            yield
        finally:
            self.posts -= 1
            if self.posts == 0:
                self.quiet.set()


class ProgramSessions:
    """Serves one route: an ASGI application whose requests say in ``state.owner`` whose they are.

    Args:
        route: its key, for the log.
        launch: says how to run the program now; may raise OperatorError.
        idle_s: after which an unused one is ended.
        rand: a number in [0, 1), for the wait after failures.
    """

    def __init__(
        self,
        route: str,
        launch: Callable[[], Launch],
        idle_s: float,
        clock: Clock,
        rand: Callable[[], float],
    ) -> None:
        self._route = route
        self._launch = launch
        self._limit = SESSIONS
        self._per_person = SESSIONS
        self._idle_s = idle_s
        self._clock = clock
        self._rand = rand
        self._sessions: dict[str, _Session] = {}
        self._shelf = Shelf(clock)
        self._group: TaskGroup | None = None
        self._failures = 0
        self._not_before_s = 0.0
        self._scope = anyio.CancelScope()
        self._retired = ""

    def limit(self, sessions: int, per_person: int) -> None:
        """Take so many sessions at once, and so many of one person; what is open stays."""
        self._limit, self._per_person = sessions, per_person

    @property
    def count(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Hold the sessions until cancelled; every program has ended then."""
        with self._scope:
            async with anyio.create_task_group() as group:
                self._group = group
                task_status.started()
                while True:
                    await anyio.sleep(SWEEP_S)
                    self._shelf.clear_old()

    async def retire(self, why: str, within_s: float) -> None:
        """End the sessions, each once its open calls are answered, and :meth:`run` after them.

        Args:
            why: for calls that are still open after ``within_s``; these are answered with it.
            within_s: how long open calls may take.
        """
        self._retired = why

        async def end(session: _Session) -> None:
            with anyio.move_on_after(within_s):
                if session.posts:
                    await session.quiet.wait()
            session.scope.cancel()
            await session.ended.wait()

        async with anyio.create_task_group() as group:
            for session in list(self._sessions.values()):
                group.start_soon(end, session)
        self._scope.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        id, owner = headers.get(_SESSION, ""), scope["state"]["owner"]
        after = headers.get(_LAST_EVENT, "") if scope["method"] == "GET" else ""
        sharers = frozenset(scope["state"]["sharers"])
        refusal = self._refusal(scope["path"], headers, owner)
        if refusal is None and after:
            refusal = self._refused_after(self._sessions.get(id), headers)
        if refusal is None and not id:
            refusal = self._full(sharers)
        if refusal is not None:
            await _say(send, refusal)
        elif id:
            await self._go_on(self._sessions[id], after, scope, receive, send)
        else:
            await self._begin(self._open(owner, sharers), scope, receive, send)

    async def _go_on(
        self, session: _Session, after: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if after:
            log.info("stream_resumed", route=self._route, call=session.kept.awaits_answer(after))
        elif scope["method"] == "GET":
            session.kept.release(GET_STREAM_KEY)
        with session.posting(scope["method"], after):
            await session.transport.handle_request(scope, receive, send)
        if session.transport.is_terminated:
            self._forget(session)

    async def _begin(self, session: _Session, scope: Scope, receive: Receive, send: Send) -> None:
        """Start a session with a request; only what opens one gets an answer without one."""
        assert self._group is not None
        await self._group.start(self._serve, session)
        established = False

        async def watching(message: Message) -> None:
            nonlocal established
            if message["type"] == "http.response.start":
                established = message["status"] == HTTPStatus.OK
            await send(message)

        try:
            with session.posting(scope["method"], ""):
                await session.transport.handle_request(scope, receive, watching)
        finally:
            if not established:
                await self._close(session)

    def _refusal(self, path: str, headers: Mapping[bytes, str], owner: object) -> "_Refusal | None":
        """Return the answer to a request that no session shall see."""
        id, version = headers.get(_SESSION, ""), headers.get(_VERSION, "")
        if path != PATH:
            return _Refusal(404, f"the route {self._route!r} is served at {PATH}")
        if version and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            return _Refusal(
                400,
                "this route keeps sessions: open one with initialize",
                mcp_types.UNSUPPORTED_PROTOCOL_VERSION,
                {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": version[:64]},
            )
        if not id and self._retired:
            return _Refusal(503, "the route has just been changed; try again", retry_after_s=1)
        if id and (id not in self._sessions or self._sessions[id].owner != owner):
            # Another's session is as unknown as one that never was.
            return _Refusal(404, "there is no such session")
        return None

    def _refused_after(
        self, session: _Session | None, headers: Mapping[bytes, str]
    ) -> "_Refusal | None":
        """Return the answer to who asks for what is not there to be taken up."""
        if "text/event-stream" not in headers.get(b"accept", ""):
            # As such the policy knows a request whose answer may hold lists.
            return _Refusal(406, "say that you accept text/event-stream")
        if session is None or not session.kept.resumable(headers[_LAST_EVENT]):
            log.info("stream_not_resumed", route=self._route)
            return _Refusal(400, "what followed this event is not kept, or no longer")
        return None

    def _full(self, sharers: frozenset[object]) -> "_Refusal | None":
        """Return the answer to a request for a session that is one too many."""
        if len(self._sessions) >= self._limit:
            log.warning("program_sessions_full", route=self._route, limit=self._limit)
            text = "too many sessions are open; try again later"
            return _Refusal(503, text, LIMITED_CODE, retry_after_s=FULL_RETRY_S)
        shares = Counter(each for held in self._sessions.values() for each in held.sharers)
        if any(shares[each] >= self._per_person for each in sharers):
            log.warning("program_sessions_share", route=self._route, limit=self._per_person)
            text = "too many of your sessions are open; end one, or try again later"
            return _Refusal(429, text, LIMITED_CODE, retry_after_s=FULL_RETRY_S)
        return None

    def _open(self, owner: object, sharers: frozenset[object]) -> _Session:
        id = uuid.uuid4().hex
        # The transport is made with the events that end its connections.
        kept = KeptEvents(self._shelf, lambda key: transport.close_sse_stream(key))
        transport = StreamableHTTPServerTransport(
            mcp_session_id=id, idle_timeout=self._idle_s, event_store=kept, retry_interval=RETRY_MS
        )
        session = self._sessions[id] = _Session(transport, kept, owner, sharers)
        return session

    def _forget(self, session: _Session) -> None:
        id = session.transport.mcp_session_id
        assert id is not None
        self._sessions.pop(id, None)

    async def _close(self, session: _Session) -> None:
        self._forget(session)
        session.kept.close()
        if not session.transport.is_terminated:
            with anyio.CancelScope(shield=True):
                await session.transport.terminate()

    async def _serve(self, session: _Session, *, task_status: TaskStatus[None]) -> None:
        """Hold one session until the caller, time or the program ends it."""
        transport = session.transport
        try:
            async with transport.connect() as (coming, going):
                idle = transport.idle_scope or anyio.CancelScope()
                task_status.started()
                with session.scope, idle:
                    await self._converse(session, Conversation(coming, going))
        except Exception:
            log.exception("program_session_failed", route=self._route)
        finally:
            await self._close(session)
            session.ended.set()

    async def _converse(self, session: _Session, conversation: Conversation) -> None:
        # No program is started for a request that HTTP turns away.
        if not await conversation.begin():
            return
        why = self._no_answer("it cannot be started; the gateway's log says why")
        try:
            launch = self._ready()
            async with started(launch) as pipes:
                log.info("program_started", route=self._route, pid=pipes.process.pid)
                try:
                    await conversation.hold(pipes)
                finally:
                    why = self._no_answer(conversation.fault or self._retired or "it ended")
                    # A program may take its time to end; nobody shall wait for that.
                    await self._part(session, conversation, why)
            self._note_end(conversation, pipes.process.returncode, launch)
        except (OperatorError, OSError) as error:
            log.warning("program_failed", route=self._route, reason=str(error) or repr(error))
            self._note_failure()
        finally:
            await self._part(session, conversation, why)

    async def _part(self, session: _Session, conversation: Conversation, why: str) -> None:
        """Answer what is open, let the answers go out, and close the session."""
        self._forget(session)
        with anyio.CancelScope(shield=True), anyio.move_on_after(PART_S):
            await conversation.settle(why)
            if session.posts:
                await session.quiet.wait()
        await self._close(session)

    def _ready(self) -> Launch:
        wait_s = self._not_before_s - self._clock.monotonic()
        if self._failures and wait_s > 0:
            raise OperatorError(
                f"it failed {self._failures} times in a row", f"wait {wait_s:.0f} s, and see why"
            )
        return self._launch()

    def _note_end(self, conversation: Conversation, status: int | None, launch: Launch) -> None:
        if conversation.fault:
            log.warning("program_at_fault", route=self._route, reason=conversation.fault)
        if conversation.answered:
            self._failures = 0
            log.info("program_ended", route=self._route, status=status)
            return
        said = conversation.last_words(launch.secrets)
        log.warning("program_ended_unheard", route=self._route, status=status, said=said)
        self._note_failure()

    def _note_failure(self) -> None:
        wait_s = backoff_s(self._failures, _BACKOFF_S, _BACKOFF_CAP_S, self._rand())
        self._failures += 1
        self._not_before_s = self._clock.monotonic() + wait_s

    def _no_answer(self, why: str) -> str:
        return f"the server behind the route {self._route!r} gave no answer: {why}"


@dataclass(frozen=True)
class _Refusal:
    status: int
    message: str
    code: int = mcp_types.INVALID_REQUEST
    data: object = None
    retry_after_s: int | None = None


async def _say(send: Send, refusal: _Refusal) -> None:
    """Answer as servers do that turn a request away: a JSON-RPC error that names no call."""
    error = {"code": refusal.code, "message": refusal.message}
    if refusal.data is not None:
        error["data"] = refusal.data
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
