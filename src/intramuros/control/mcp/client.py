"""MCP sessions over the official SDK: one per (session, server), opened on use, closed when idle.

A session lives in a task of its own, because the SDK wants to be entered and left by one task;
callers only borrow it. Streamable HTTP comes first and the older SSE transport is the fall-back
(R100). Nothing here repeats a call.
"""

import json
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import anyio
import anyio.abc
import httpx2
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from intramuros.control.mcp.base import (
    Caller,
    McpError,
    McpFailure,
    McpResult,
    McpServer,
    McpTool,
)
from intramuros.control.mcp.content import mask, to_result, to_tool
from intramuros.control.mcp.resuming import ResumingTransport
from intramuros.control.mcp.witness import Witness
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("mcp")

T = TypeVar("T")

# Opens the way to one server for one session: directly and guarded, or through a tunnel.
TransportFor = Callable[[Caller, McpServer], Awaitable[httpx2.AsyncBaseTransport]]

# A paginator that never ends must not hang a turn.
MAX_TOOL_PAGES: Final = 20
# Of one server: models read every definition in every request, and the log keeps them.
MAX_TOOLS: Final = 1_000
MAX_DEFINITIONS: Final = 1024 * 1024
# Statuses that an SSE-only server gives to a streamable HTTP request.
_OLD_TRANSPORT: Final = frozenset({400, 404, 405, 406, 415})
_REFUSED: Final = frozenset({401, 403})


@dataclass(frozen=True)
class Limits:
    """Deadlines in seconds."""

    connect_s: float = 15.0
    list_s: float = 30.0
    call_s: float = 300.0
    idle_s: float = 60.0


class _Link:
    """One MCP session and who uses it."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self.ready = anyio.Event()
        self.closing = anyio.Event()
        self.client: Client | None = None
        self.witness: Witness | None = None
        self.error: McpError | None = None
        self.old = False
        """Whether answers come over another request (the transport before streamable HTTP)."""
        self.users = 0
        self.uses = 0

    def failed(self, message: str, status: int | None) -> McpError:
        """Return the error that callers of this link get."""
        refused = status in _REFUSED
        kind = McpFailure.AUTHENTICATION if refused else McpFailure.CONNECTION
        return McpError(self.server.name, kind, self.masked(message))

    def masked(self, value: T) -> T:
        """Return what the server said without the credential, should it have echoed that."""
        return mask(value, self.witness.secrets if self.witness else ())


class _Answered(McpError):
    """The server itself answered with an error."""

    def __init__(self, link: _Link, message: str) -> None:
        super().__init__(link.server.name, McpFailure.CONNECTION, link.masked(message))


class _SessionGone(McpError):
    """The server knows the session no longer, so that it did nothing of what was asked in it."""


class McpPool:
    """A :class:`~intramuros.control.mcp.base.Connector` over the official SDK.

    :meth:`run` must be running while it is used; it owns the sessions' tasks.
    """

    def __init__(self, transport_for: TransportFor, limits: Limits | None = None) -> None:
        self._transport_for = transport_for
        self._limits = limits or Limits()
        self._links: dict[tuple[Caller, McpServer], _Link] = {}
        self._group: anyio.abc.TaskGroup | None = None

    async def run(self, stop: Stop) -> None:
        """Hold the sessions until a stop is asked for, then close them."""
        async with anyio.create_task_group() as group:
            self._group = group
            await stop.wait()
            for link in list(self._links.values()):
                link.closing.set()
        self._group = None

    async def tools(self, caller: Caller, server: McpServer) -> Sequence[McpTool]:
        """Return the server's tools; those that no model could be offered are left out.

        Raises:
            McpError: the server is away or refuses us.
        """

        async def listed() -> Sequence[McpTool]:
            async with self._borrow(caller, server) as link:
                tools = await self._guarded(link, self._limits.list_s, _list_tools)
                return [
                    replace(
                        tool,
                        description=link.masked(tool.description),
                        input_schema=link.masked(tool.input_schema),
                    )
                    for tool in tools
                ]

        return await _in_any_session(listed)

    async def call(
        self,
        caller: Caller,
        server: McpServer,
        tool: str,
        arguments: Mapping[str, object],
    ) -> McpResult:
        """Call a tool once. An error that the server itself answered is a result.

        Raises:
            McpError: the server is away or refuses us; whether the call ran is unknown.
        """

        async def call_tool(client: Client) -> McpResult:
            return to_result(await client.call_tool(tool, dict(arguments)))

        async def called() -> McpResult:
            async with self._borrow(caller, server) as link:
                try:
                    result = await self._guarded(link, self._limits.call_s, call_tool)
                    return replace(result, content=link.masked(result.content))
                except _Answered as answer:
                    return McpResult([{"type": "text", "text": str(answer)}], is_error=True)

        return await _in_any_session(called)

    async def _guarded(
        self,
        link: _Link,
        deadline_s: float,
        work: Callable[[Client], Awaitable[T]],
    ) -> T:
        """Do one thing with a session and rename what goes wrong."""
        client, witness = link.client, link.witness
        if client is None or witness is None:
            raise link.error or link.failed("the session has ended", None)
        before, unknown, uses = witness.failures, witness.sessions_unknown, link.uses
        alone = link.users == 1
        try:
            with anyio.fail_after(deadline_s), anyio.CancelScope() as hopeless:
                if link.old:
                    witness.waiting.add(hopeless)
                try:
                    return await work(client)
                finally:
                    witness.waiting.discard(hopeless)
            link.closing.set()
            raise link.failed(witness.error or "the request was refused", witness.status)
        except TimeoutError as error:
            link.closing.set()
            raise link.failed(f"no answer within {math.ceil(deadline_s)} s", None) from error
        except MCPError as error:
            if witness.failures == before and not link.closing.is_set():
                raise _Answered(link, error.error.message) from error
            link.closing.set()
            failure = link.failed(witness.error or error.error.message, witness.status)
            if alone and link.uses == uses and witness.sessions_unknown == unknown + 1:
                # Nobody else asked meanwhile: what was turned away is what was asked here.
                raise _SessionGone(link.server.name, failure.failure, failure.message) from error
            raise failure from error
        except (httpx2.HTTPError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            link.closing.set()
            raise link.failed(str(error) or "the connection broke", witness.status) from error

    @asynccontextmanager
    async def _borrow(self, caller: Caller, server: McpServer) -> AsyncIterator[_Link]:
        link = self._links.get((caller, server))
        if link is None or link.closing.is_set():
            if self._group is None:
                raise McpError(server.name, McpFailure.CONNECTION, "the server is stopping")
            link = self._links[caller, server] = _Link(server)
            self._group.start_soon(self._serve, (caller, server), link)
        link.users += 1
        link.uses += 1
        try:
            await link.ready.wait()
            if link.error is not None:
                raise link.error
            yield link
        finally:
            link.users -= 1

    async def _serve(self, key: tuple[Caller, McpServer], link: _Link) -> None:
        """Open the session, lend it until it is idle or broken, close it."""
        try:
            await self._open(key[0], link)
        except Exception as error:  # noqa: BLE001  becomes the callers' error
            witness = link.witness
            cause = _innermost(error)
            message = (witness and witness.error) or str(cause) or type(cause).__name__
            link.error = link.failed(message, witness.status if witness else None)
            log.info("mcp_session_failed", server=link.server.name, error=link.error.message)
        finally:
            link.client = None
            link.closing.set()
            link.ready.set()
            if self._links.get(key) is link:
                del self._links[key]

    async def _open(self, caller: Caller, link: _Link) -> None:
        try:
            await self._open_streamable(caller, link)
        except Exception:
            status = link.witness.status if link.witness else None
            if link.ready.is_set() or status not in _OLD_TRANSPORT:
                raise
            log.info("mcp_sse_fallback", server=link.server.name, status=status)
            await self._open_sse(caller, link)

    async def _open_streamable(self, caller: Caller, link: _Link) -> None:
        async with self._http(caller, link) as http:
            transport = streamable_http_client(link.server.url, http_client=http)
            await self._lend(link, Client(transport, mode="auto"))

    async def _open_sse(self, caller: Caller, link: _Link) -> None:
        witness = Witness(await self._transport_for(caller, link.server))
        link.witness, link.old = witness, True

        def factory(
            headers: dict[str, str] | None = None,
            timeout: httpx2.Timeout | None = None,
            auth: httpx2.Auth | None = None,
        ) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(
                transport=witness, headers=headers, timeout=timeout, auth=auth
            )

        transport = sse_client(link.server.url, httpx_client_factory=factory)
        await self._lend(link, Client(transport, mode="legacy"))

    @asynccontextmanager
    async def _http(self, caller: Caller, link: _Link) -> AsyncIterator[httpx2.AsyncClient]:
        way = await self._transport_for(caller, link.server)
        link.witness = Witness(ResumingTransport(way, random.random))
        timeout = httpx2.Timeout(self._limits.connect_s, read=self._limits.call_s)
        async with httpx2.AsyncClient(transport=link.witness, timeout=timeout) as http:
            yield http

    async def _lend(self, link: _Link, client: Client) -> None:
        with anyio.CancelScope() as opening:
            opening.deadline = anyio.current_time() + self._limits.connect_s
            async with client:
                opening.deadline = math.inf
                link.client = client
                link.ready.set()
                await self._until_idle(link)
                link.client = None
        if opening.cancelled_caught:
            raise TimeoutError(f"no answer within {math.ceil(self._limits.connect_s)} s")

    async def _until_idle(self, link: _Link) -> None:
        while not link.closing.is_set():
            uses = link.uses
            with anyio.move_on_after(self._limits.idle_s):
                await link.closing.wait()
            if link.users == 0 and link.uses == uses:
                link.closing.set()


async def _in_any_session(work: Callable[[], Awaitable[T]]) -> T:
    """Do something, in a new session if the server lost the one that there was.

    Servers lose them when they start anew, and say so before they do anything (MCP 2025-11-25,
    transports, session management).
    """
    try:
        return await work()
    except _SessionGone:
        return await work()


async def _list_tools(client: Client) -> list[McpTool]:
    tools: list[McpTool] = []
    room = MAX_DEFINITIONS
    cursor: str | None = None
    for _ in range(MAX_TOOL_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in filter(None, map(to_tool, page.tools)):
            room -= len(tool.name) + len(tool.description) + len(json.dumps(tool.input_schema))
            if room < 0 or len(tools) == MAX_TOOLS:
                # The first ones: a server that goes on for ever keeps what models could be offered.
                log.warning("mcp_tools_left_out", kept=len(tools))
                return tools
            tools.append(tool)
        cursor = page.next_cursor
        if not cursor:
            break
    return tools


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
