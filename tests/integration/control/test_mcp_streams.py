"""What becomes of an MCP call whose session is interrupted, or whose stream breaks in the middle.

The server is the SDK's own, over real sockets and both of its ways: with sessions, where a client
says that it gives up, and without, where it hangs up.
"""

import ipaddress
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn
from anyio import to_thread
from mcp.server.mcpserver import Context, MCPServer

from intramuros.control.mcp.base import Caller, McpError, McpServer
from intramuros.control.mcp.client import Limits, McpPool
from intramuros.control.mcp.guard import GuardedTransport
from intramuros.control.session.perform import Performer
from intramuros.control.session.runner import Runner
from intramuros.kernel.service import Stop
from tests.fakes.conforming import Memory
from tests.fakes.loop import agent, mcp_toolset, uses
from tests.fakes.loop import use as call_of
from tests.integration.control.session.rig import Rig
from tests.integration.control.session.test_runner import QUICK
from tests.waiting import until

pytestmark = pytest.mark.anyio

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
CALLER = Caller("wrkspc_1", "sesn_1")
WAYS = ["sessions", "stateless"]


@dataclass
class Served:
    """The server, and what its tools went through."""

    url: str = ""
    begun: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    runs: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    """The line's own."""

    def clear(self) -> None:
        for event in (self.begun, self.stopped, self.go):
            event.clear()
        self.runs.clear()
        self.resumed.clear()


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    made, served = MCPServer("streams", log_level="ERROR"), Served()

    @made.tool()
    async def hang() -> str:
        """Never answer; notice when nobody waits any more."""
        served.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            served.stopped.set()
        return ""

    @made.tool()
    async def pay(ctx: Context, closes: int) -> str:
        """Answer on another stream than the one that the call came with."""
        served.runs.append("pay")
        for before in range(closes):
            # Whoever comes back may take its time, and finds nothing to close until then.
            while len(served.resumed) <= before:
                await ctx.close_sse_stream()
                await anyio.sleep(0.05)
        return "paid once"

    @made.tool()
    async def report(ctx: Context) -> str:
        """Answer when told to, having said something before."""
        served.runs.append("report")
        await ctx.report_progress(1, 2)
        served.begun.set()
        while not served.go.is_set():  # noqa: ASYNC110  another thread says so
            await anyio.sleep(0.01)
        return "reported once"

    app = made.streamable_http_app(event_store=Memory(), retry_interval=50)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    yield served
    running.should_exit = True
    thread.join(60)
    listener.close()


@pytest.fixture(autouse=True)
def cleared(server: Served) -> None:
    server.clear()


@dataclass
class Line(httpx2.AsyncBaseTransport):
    """A real connection that is watched, and cut when a test says so.

    Args:
        way: which way of talking the other side knows; servers with sessions know no discovery.
        cuts: one for each stream of a call that is to break behind its first bytes.
        deaf: whether nothing can be resumed.
        lost: one for each call whose session the server is to know no longer.
    """

    way: str = "sessions"
    cuts: list[str] = field(default_factory=list)
    deaf: bool = False
    lost: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    inner: GuardedTransport = field(default_factory=lambda: GuardedTransport(LOOPBACK))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        method = str(json.loads(body).get("method")) if body else request.method
        self.said.append(method)
        if method == "server/discover" and self.way == "sessions":
            return httpx2.Response(400)
        if (last := request.headers.get("last-event-id")) is not None:
            self.resumed.append(last)
            if self.deaf:
                return httpx2.Response(503)
        if method == "tools/call" and self.lost and self.lost[-1] in body.decode():
            self.lost.pop()
            request.headers["mcp-session-id"] = "0" * 32
        answer = await self.inner.handle_async_request(request)
        if method == "tools/call" and self.cuts:
            self.cuts.pop()
            assert isinstance(answer.stream, httpx2.AsyncByteStream)
            answer.stream = Cut(answer.stream)
        return answer

    async def aclose(self) -> None:
        await self.inner.aclose()


@dataclass
class Cut(httpx2.AsyncByteStream):
    """A stream that breaks behind its first bytes."""

    inner: httpx2.AsyncByteStream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.inner:
            yield chunk
            raise httpx2.ReadError("connection reset by peer")

    async def aclose(self) -> None:
        await self.inner.aclose()


@asynccontextmanager
async def pooled(line: Line, limits: Limits | None = None) -> AsyncIterator[McpPool]:
    async def transport_for(caller: Caller, server: McpServer) -> httpx2.AsyncBaseTransport:
        # A new connection each time, under the same eyes.
        return replace(line, inner=GuardedTransport(LOOPBACK))

    pool, stop = McpPool(transport_for, limits), Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, stop)
        await anyio.lowlevel.checkpoint()
        yield pool
        stop.request()


async def call(line: Line, server: Served, tool: str, **arguments: Any) -> str:
    async with pooled(line) as pool:
        named = McpServer("streams", server.url)
        result = await pool.call(CALLER, named, tool, arguments)
    assert not result.is_error, result.content
    return "".join(str(block["text"]) for block in result.content)


async def stopped(server: Served) -> bool:
    return await to_thread.run_sync(server.stopped.wait, 5)


@pytest.mark.parametrize("way", WAYS)
async def test_an_interrupt_reaches_the_server_of_a_call(
    server: Served, way: str, tmp_path: Path
) -> None:
    """The session goes on at once, and the server learns that nobody waits any more."""
    line = Line(way)
    rig = Rig(tmp_path / "log.db", settings=QUICK)
    declared = agent(mcp_toolset())
    declared["mcp_servers"] = [{"type": "url", "name": "db", "url": server.url}]
    session = await rig.create(declared)
    rig.model.answers.append(uses(call_of("mcp__db__hang")))
    async with pooled(line) as pool:
        rig.runner = Runner(rig.desk, Performer(rig.model, pool, rig.hub), rig.ids, "test", QUICK)
        async with rig.running():
            await rig.say(session)
            assert await to_thread.run_sync(server.begun.wait, 5)
            await rig.send(session, {"type": "user.interrupt"})
            await rig.idle(session)
            assert await stopped(server)
    (result,) = [r for r in await rig.log(session) if r.type == "agent.mcp_tool_result"]
    assert result.body["is_error"]
    # Where there are sessions a message says so, and a closed stream does not; else it is the sign.
    assert line.said.count("notifications/cancelled") == (way == "sessions")
    assert line.said.count("tools/call") == 1
    rig.db.close()


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_over_its_time_is_cancelled_at_the_server_too(
    server: Served, way: str
) -> None:
    line = Line(way)
    async with pooled(line, Limits(call_s=0.3)) as pool:
        with pytest.raises(McpError, match="no answer within"):
            await pool.call(CALLER, McpServer("streams", server.url), "hang", {})
        assert await stopped(server)
    assert line.said.count("tools/call") == 1


@pytest.mark.parametrize("closes", [1, 2])
async def test_a_stream_that_the_server_closes_is_resumed(server: Served, closes: int) -> None:
    line = Line(resumed=server.resumed)
    assert await call(line, server, "pay", closes=closes) == "paid once"
    assert server.runs == ["pay"], "it is the answer that is asked for again, not the call"
    assert line.said.count("tools/call") == 1
    assert len(line.resumed) >= closes
    assert all(line.resumed)


async def test_a_stream_that_breaks_is_resumed_where_it_broke(server: Served) -> None:
    line = Line(cuts=["once"])

    async def tell() -> None:
        await until(lambda: line.resumed)
        server.go.set()

    async with anyio.create_task_group() as group:
        group.start_soon(tell)
        assert await call(line, server, "report") == "reported once"
    assert server.runs == ["report"]
    assert line.said.count("tools/call") == 1


async def test_a_stream_that_cannot_be_resumed_is_an_unknown_outcome(server: Served) -> None:
    """The call is not made again, and the next one works."""
    line = Line(cuts=["once"], deaf=True)
    async with pooled(line) as pool:
        named = McpServer("streams", server.url)
        with pytest.raises(McpError):
            await pool.call(CALLER, named, "report", {})
        server.go.set()
        assert server.runs == ["report"]
        assert line.said.count("tools/call") == 1
        assert not (await pool.call(CALLER, named, "pay", {"closes": 0})).is_error


async def test_a_call_in_a_session_that_the_server_lost_is_made_in_a_new_one(
    server: Served,
) -> None:
    """Servers that start anew forget their sessions, and say so before they do anything."""
    line = Line(lost=["pay"])
    assert await call(line, server, "pay", closes=0) == "paid once"
    assert server.runs == ["pay"]
    assert (line.said.count("tools/call"), line.said.count("initialize")) == (2, 2)


async def test_a_server_that_loses_every_session_is_given_up(server: Served) -> None:
    line = Line(lost=["pay"] * 5)
    async with pooled(line) as pool:
        with pytest.raises(McpError, match="404"):
            await pool.call(CALLER, McpServer("streams", server.url), "pay", {"closes": 0})
    assert server.runs == []
    assert line.said.count("tools/call") == 2


async def test_a_call_that_was_not_alone_is_not_made_again(server: Served) -> None:
    """Which of them was turned away is not known, and the other may have been carried out."""
    line = Line(lost=["pay"])
    named = McpServer("streams", server.url)
    async with pooled(line) as pool, anyio.create_task_group() as group:

        async def other() -> None:
            with suppress(McpError):
                await pool.call(CALLER, named, "report", {})

        group.start_soon(other)
        assert await to_thread.run_sync(server.begun.wait, 30)
        with pytest.raises(McpError, match="404"):
            await pool.call(CALLER, named, "pay", {"closes": 0})
        server.go.set()
    assert server.runs == ["report"]
    assert line.said.count("tools/call") == 2
