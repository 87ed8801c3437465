"""Our MCP client as a program: visits the server at the URL given last, for a conformance suite."""

import ipaddress
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel
import httpx2

from intramuros.control.mcp.base import Caller, McpResult, McpServer, McpTool
from intramuros.control.mcp.client import Limits, McpPool
from intramuros.control.mcp.guard import GuardedTransport
from intramuros.kernel.service import Stop

CALLER: Final = Caller("wrkspc_1", "sesn_1")
LOOPBACK: Final = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]

Call = Callable[..., Awaitable[McpResult]]
Way = Callable[[], httpx2.AsyncBaseTransport]


class Visit:
    """A visit to one server."""

    def __init__(self, pool: McpPool, url: str) -> None:
        self._pool = pool
        self._server = McpServer("visited", url)

    async def tools(self) -> dict[str, McpTool]:
        """Return its tools by name."""
        return {tool.name: tool for tool in await self._pool.tools(CALLER, self._server)}

    async def call(self, tool: str, **arguments: Any) -> McpResult:
        """Call a tool."""
        return await self._pool.call(CALLER, self._server, tool, arguments)


@asynccontextmanager
async def visit(
    url: str, limits: Limits | None = None, way: Way | None = None
) -> AsyncIterator[Visit]:
    """Lend a pool that reaches a server, on loopback unless ``way`` opens another."""

    async def transport_for(caller: Caller, server: McpServer) -> httpx2.AsyncBaseTransport:
        return GuardedTransport(LOOPBACK) if way is None else way()

    pool, stop = McpPool(transport_for, limits), Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, stop)
        await anyio.lowlevel.checkpoint()
        try:
            yield Visit(pool, url)
        finally:
            stop.request()


async def call_everything(url: str) -> None:
    """Call each tool of a server with fives for arguments."""
    async with visit(url) as visited:
        for name, tool in (await visited.tools()).items():
            properties: Any = tool.input_schema.get("properties", {})
            await visited.call(name, **dict.fromkeys(properties, 5))


if __name__ == "__main__":
    anyio.run(partial(call_everything, sys.argv[-1]))
