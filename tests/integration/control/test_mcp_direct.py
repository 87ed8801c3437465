"""The pool over real sockets: guarded direct connections, both transports."""

import ipaddress
import socket
import threading
from collections.abc import Iterator

import anyio
import httpx2
import pytest
import uvicorn
from mcp.server.mcpserver import MCPServer

from intramuros.control.mcp.base import Caller, McpError, McpServer
from intramuros.control.mcp.client import McpPool
from intramuros.control.mcp.guard import GuardedTransport
from intramuros.kernel.service import Stop

pytestmark = pytest.mark.anyio

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
CALLER = Caller("wrkspc_1", "sesn_1")


@pytest.fixture(params=["streamable", "sse"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    server = MCPServer("echo")

    @server.tool()
    def echo(text: str) -> str:
        """Say it again."""
        return text

    old = request.param == "sse"
    app = server.sse_app() if old else server.streamable_http_app()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/{'sse' if old else 'mcp'}"
    running.should_exit = True
    thread.join(60)
    listener.close()


async def call_echo(url: str, exceptions: list[ipaddress.IPv4Network]) -> object:
    async def transport_for(caller: Caller, server: McpServer) -> httpx2.AsyncBaseTransport:
        return GuardedTransport(exceptions)

    pool, stop = McpPool(transport_for), Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, stop)
        await anyio.lowlevel.checkpoint()
        try:
            tools = await pool.tools(CALLER, McpServer("echo", url))
            result = await pool.call(CALLER, McpServer("echo", url), "echo", {"text": "hello"})
            return [tool.name for tool in tools], result.content
        except McpError as error:
            return error
        finally:
            stop.request()


@pytest.mark.rule("R100")
async def test_both_transports_serve_calls(url: str) -> None:
    assert await call_echo(url, LOOPBACK) == (["echo"], [{"type": "text", "text": "hello"}])


async def test_a_private_address_is_refused_before_it_is_dialled(url: str) -> None:
    error = await call_echo(url, [])
    assert isinstance(error, McpError)
    assert "public addresses only" in error.message
