"""The wrapped MCP servers of one worker: opened when called, closed when idle, and opened anew.

A server beside the worker is one session for all; a program in sandboxes is started for each call,
so that it keeps nothing between calls but files. A call is made once: whether one whose server went
away was carried out is not known, and the agent is told so.
"""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import httpx2
from mcp.client import Client, Transport
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED

from intramuros.execution.sandbox.attachments import Attachable, Attaching, Attachment
from intramuros.execution.sandbox.base import Sandbox, SandboxError
from intramuros.execution.tools.outcomes import ToolOutcome
from intramuros.execution.wrapped.bounds import Marks, TooMany, Until, limited, size_of
from intramuros.execution.wrapped.config import Wrapped
from intramuros.execution.wrapped.pipes import over
from intramuros.kernel.config import clean_environment
from intramuros.kernel.programs import GRACE_S, running
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, backoff_s
from intramuros.protocol.mcp_blocks import blocks

log = logger("wrapped")

CONNECT_S: Final = 15.0
IDLE_S: Final = 300.0
_BACKOFF_S: Final = 1.0
_BACKOFF_CAP_S: Final = 30.0
_END_S: Final = 2 * GRACE_S
_PING_S: Final = 5.0
_MAX_ERROR_CHARS: Final = 4000
_MODE: Final = "auto"
_GONE: Final = (httpx2.HTTPError, anyio.ClosedResourceError, anyio.BrokenResourceError)
# Unpacking would turn kilobytes into gigabytes.
_PLAIN: Final = {"accept-encoding": "identity"}


class _Away(Exception):
    """There is no session with the server; nothing was called."""


class Outside:
    """A server beside the worker: one session, owned by :meth:`run`."""

    def __init__(self, server: Wrapped, clock: Clock) -> None:
        self.server = server
        self._clock = clock
        self._client: Client | None = None
        self._wanted = anyio.Event()
        self._opened = anyio.Event()
        self._broken = anyio.Event()
        self._failures = 0
        self._not_before_s = -math.inf
        self._users = 0
        self._used_s = 0.0
        self._free = anyio.Event()
        self._free.set()

    async def run(self, stop: Stop) -> None:
        """Open sessions as they are wanted until a stop is asked for."""
        async with anyio.create_task_group() as group:

            async def cut() -> None:
                await stop.wait()
                # Calls that run come to their end; the worker sees to the time.
                await self._free.wait()
                group.cancel_scope.cancel()

            group.start_soon(cut)
            try:
                while True:
                    await self._wanted.wait()
                    self._wanted = anyio.Event()
                    await self._session()
            finally:
                self._not_before_s = math.inf
                self._tell()

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        """Call a tool once; never raises but for cancellation."""
        if self._users == 0:
            self._free = anyio.Event()
        self._users += 1
        try:
            client = await self._borrow()
            broken = self._broken
            try:
                return await _called(client, self.server, tool, arguments)
            except TimeoutError:
                if not await _lives(client):
                    self._drop(client, broken)
                return _late(self.server)
            except _Broken as error:
                self._drop(client, broken)
                return _unknown(self.server, str(error))
        except _Away as error:
            return _fault(f"The MCP server {self.server.name!r} cannot be reached: {error}")
        finally:
            self._used_s = self._clock.monotonic()
            self._users -= 1
            if self._users == 0:
                self._free.set()

    def _drop(self, client: Client, broken: anyio.Event) -> None:
        """Have the next call open a session of its own."""
        if self._client is client:
            self._client = None
        broken.set()

    async def _borrow(self) -> Client:
        if self._client is None:
            if self._clock.monotonic() < self._not_before_s:
                raise _Away("it failed a moment ago; try again later")
            opened = self._opened
            self._wanted.set()
            with anyio.move_on_after(CONNECT_S + _END_S):
                await opened.wait()
        if self._client is None:
            raise _Away("it gives no answer, or refuses the worker")
        return self._client

    async def _session(self) -> None:
        self._broken = anyio.Event()
        opened = False
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + CONNECT_S) as opening:
                async with self._reach() as transport, _client(transport) as client:
                    opening.deadline = math.inf
                    self._client, self._failures, opened = client, 0, True
                    self._tell()
                    await self._until_idle()
                    self._client = None
        except Exception as error:  # noqa: BLE001  whatever a server does concerns its calls alone
            # Not its words: they could be anybody's.
            why = type(_innermost(error)).__name__
            log.warning("mcp_server_away", server=self.server.name, why=why)
        finally:
            self._client = None
        if not opened:
            wait_s = backoff_s(self._failures, _BACKOFF_S, _BACKOFF_CAP_S, 0.5)
            self._failures += 1
            self._not_before_s = self._clock.monotonic() + wait_s
            self._tell()

    def _tell(self) -> None:
        opened, self._opened = self._opened, anyio.Event()
        opened.set()

    async def _until_idle(self) -> None:
        while not self._broken.is_set():
            idle_s = self._clock.monotonic() - self._used_s
            if self._users == 0 and idle_s >= IDLE_S:
                return
            with anyio.move_on_after(IDLE_S if self._users else max(IDLE_S - idle_s, 1.0)):
                await self._broken.wait()

    @asynccontextmanager
    async def _reach(self) -> AsyncIterator[Transport]:
        if self.server.url is None:
            async with _program(self.server) as transport:
                yield transport
            return
        timeout = httpx2.Timeout(CONNECT_S, read=self.server.timeout_s + CONNECT_S)
        bounded = _Bounded(httpx2.AsyncHTTPTransport(trust_env=False), self.server.max_bytes)
        async with httpx2.AsyncClient(
            transport=bounded,
            headers={**self.server.headers, **_PLAIN},
            timeout=timeout,
            trust_env=False,
        ) as http:
            yield streamable_http_client(
                self.server.url, http_client=http, max_sse_event_size=self.server.max_bytes
            )


class _Broken(Exception):
    """The session ended under a call."""


def _client(transport: Transport) -> Client:
    return Client(limited(transport), mode=_MODE)


async def _called(
    client: Client, server: Wrapped, tool: str, arguments: Mapping[str, Any]
) -> ToolOutcome:
    """Return what a call brought.

    Raises:
        TimeoutError: nothing became of it in time.
        _Broken: nobody knows what became of it.
    """
    try:
        with anyio.fail_after(server.timeout_s):
            result = await client.call_tool(tool, dict(arguments))
    except MCPError as error:
        if error.error.code == CONNECTION_CLOSED:
            raise _Broken("its session ended") from error
        return _fault(error.error.message[:_MAX_ERROR_CHARS] or "The MCP server refused the call.")
    except _GONE as error:
        raise _Broken("the connection broke") from error
    except (ValueError, RuntimeError) as error:
        raise _Broken(f"its answer cannot be read ({type(error).__name__})") from error
    said = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    found = [dict(block) for block in blocks(said)]
    if sum(map(size_of, found)) > server.max_bytes:
        return _fault(f"The result is longer than {server.max_bytes} bytes.")
    is_error = bool(result.is_error)
    return ToolOutcome(found, is_error) if found else ToolOutcome.text("", is_error=is_error)


async def _lives(client: Client) -> bool:
    """Tell whether a server that is late says anything at all: one that hangs is given up."""
    answered = False
    with anyio.move_on_after(_PING_S):
        try:
            await client.session.send_ping()
            answered = True
        except MCPError as error:
            answered = error.error.code != CONNECTION_CLOSED  # it may know no such request
        except Exception as error:  # noqa: BLE001  what it said instead is as good
            answered = not isinstance(error, _GONE)
    return answered


async def called_inside(
    sandbox: Sandbox, server: Wrapped, tool: str, arguments: Mapping[str, Any]
) -> ToolOutcome:
    """Start a program in a sandbox, call a tool of it once, and end it.

    Raises:
        SandboxError: the sandbox cannot run it.
    """
    if not isinstance(sandbox, Attachable):
        raise SandboxError("sandboxes of this provider hold no MCP servers")
    options = Attaching(environment=server.variables)
    done: list[ToolOutcome] = []
    try:
        async with sandbox.attach(list(server.command), options) as held:
            transport = over(_output_of(held), held.send, server.max_bytes)
            with anyio.fail_after(CONNECT_S + server.timeout_s):
                async with _client(transport) as client:
                    done.append(await _called(client, server, tool, arguments))
    except SandboxError:
        raise
    except TimeoutError:
        return _late(server)
    except Exception as error:
        if done:
            return done[0]
        if isinstance(_innermost(error), SandboxError):
            raise _innermost(error) from error
        log.info("mcp_program_failed", server=server.name, why=type(_innermost(error)).__name__)
        return _unknown(server, "its program ended, or speaks no MCP")
    return done[0]


def _output_of(held: Attachment) -> Any:  # noqa: ANN401  a coroutine function
    async def receive() -> bytes | None:
        while (got := await held.receive()) is not None:
            data, is_error = got
            if not is_error:
                return data
        return None

    return receive


@asynccontextmanager
async def _program(server: Wrapped) -> AsyncIterator[Transport]:
    """Run a server's program beside the worker, with no more of its environment than it needs."""
    variables = {**clean_environment(), **server.variables}
    async with running(server.command, variables) as pipes:
        yield over(pipes.receive, pipes.send, server.max_bytes)


class _Bounded(httpx2.AsyncBaseTransport):
    """A transport whose answers end at a size."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; an event stream that stays open is bounded by event, others whole."""
        answer = await self._inner.handle_async_request(request)
        if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
            await answer.aclose()
            raise httpx2.ReadError("the answer is packed, though none was to be")
        stream = answer.stream
        events = answer.headers.get("content-type", "").startswith("text/event-stream")
        if isinstance(stream, httpx2.AsyncByteStream):
            lasting = events and request.method == "GET"
            answer.stream = _Counted(stream, None if lasting else self._limit)
        return answer

    async def aclose(self) -> None:
        """Close the transport beneath."""
        await self._inner.aclose()


class _Counted(httpx2.AsyncByteStream):
    """A body that ends at a size, or without one is of events that each are bounded."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int | None) -> None:
        self._inner = inner
        self._limit = math.inf if limit is None else limit
        self._marks = Marks(Until.EVENT if limit is None else Until.BODY)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._inner:
            size += len(chunk)
            if size > self._limit:
                raise httpx2.ReadError("the answer is too long")
            try:
                await self._marks.feed(chunk)
            except TooMany as error:
                raise httpx2.ReadError(str(error)) from error
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


def _late(server: Wrapped) -> ToolOutcome:
    return _fault(f"The tool did not answer within {server.timeout_s:g} s.")


def _unknown(server: Wrapped, why: str) -> ToolOutcome:
    return _fault(
        f"The MCP server {server.name!r} was lost while the call ran ({why}), so it is not known "
        "whether it was carried out. It was not made again."
    )


def _fault(text: str) -> ToolOutcome:
    return ToolOutcome.text(text, is_error=True)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
