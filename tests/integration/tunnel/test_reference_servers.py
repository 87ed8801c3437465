"""The reference servers behind a tunnel and a policy: our client finds what it finds without."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from intramuros.control.mcp.transport import TunnelTransport
from intramuros.protocol.who import Kind, Who
from tests.fakes.mcp_visitor import Visit, visit
from tests.integration.control.test_mcp_servers import (
    MODULES,
    UPSTREAM,
    listening,
    proxied,
    text_of,
    with_proxy,
)
from tests.integration.control.test_mcp_servers import (
    pytestmark as of_servers,
)
from tests.integration.tunnel.rig import Rig, running_edge, running_gateway, url

pytestmark = of_servers

ANN = Who(Kind.USER, "user_ann")
NO_WRITING = """
permit(principal, action, resource in Server::"docs");
forbid(principal, action == Action::"call_tool", resource) when {
    [Tool::"docs/write_file", Tool::"docs/edit_file", Tool::"docs/move_file",
     Tool::"docs/create_directory", Tool::"docs/write_query", Tool::"docs/create_table"]
        .contains(resource)
};
"""


@asynccontextmanager
async def behind(home: Path, address: str, policy: str) -> AsyncIterator[Visit]:
    """Visit a server on loopback through a tunnel."""
    rig, parts = Rig(home, who=(ANN,), policy=policy), urlsplit(address)
    async with (
        running_edge(rig) as edge_port,
        running_gateway(rig.config([edge_port], parts.port or 0)),
        visit(url(parts.path), way=lambda: TunnelTransport(rig.dialer(edge_port))) as visited,
    ):
        yield visited


@pytest.mark.parametrize("transport", ["streamableHttp", "sse"])
async def test_everything_that_a_server_can_answer(tmp_path: Path, transport: str) -> None:
    program = MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
    path = "/sse" if transport == "sse" else "/mcp"
    with listening(["node", str(program), transport], PORT="0") as address:
        async with visit(address + path) as directly:
            expected = await directly.tools()
        policy = 'permit(principal, action, resource in Server::"docs");'
        async with behind(tmp_path, address + path, policy) as visited:
            assert await visited.tools() == expected
            assert text_of(await visited.call("echo", message="héllo\n🙂")) == "Echo: héllo\n🙂"
            done = await visited.call("trigger-long-running-operation", duration=0.4, steps=4)
            assert "completed" in text_of(done).lower()
            (picture,) = [
                block
                for block in (await visited.call("get-tiny-image")).content
                if block["type"] == "image"
            ]
            assert picture["source"]
            assert (await visited.call("get-sum", a="no", b=[])).is_error


@with_proxy
async def test_a_file_server_that_may_only_be_read(tmp_path: Path) -> None:
    program = MODULES / "@modelcontextprotocol" / "server-filesystem" / "dist" / "index.js"
    files = tmp_path / "files"
    files.mkdir()
    (files / "notes.txt").write_text("wall\n" * 3)
    with proxied("node", str(program), str(files)) as address:
        async with behind(tmp_path / "rig", f"{address}/mcp", NO_WRITING) as visited:
            tools = await visited.tools()
            assert tools["read_text_file"].read_only
            assert [name for name, tool in tools.items() if not tool.read_only] == []
            read = await visited.call("read_text_file", path=str(files / "notes.txt"))
            assert text_of(read).startswith("wall\nwall\nwall\n")
            new = files / "new.txt"
            assert (await visited.call("write_file", path=str(new), content="x")).is_error
            assert not new.exists()


@with_proxy
async def test_a_database_server_that_may_only_be_read(tmp_path: Path) -> None:
    server = str(UPSTREAM / "mcp-server-sqlite")
    with proxied(server, "--db-path", str(tmp_path / "x.db")) as address:
        open_to_all = "permit(principal, action, resource);"
        async with behind(tmp_path / "rig", f"{address}/mcp", open_to_all) as visited:
            await visited.call("create_table", query="CREATE TABLE t (n INTEGER)")
            await visited.call("write_query", query="INSERT INTO t VALUES (1), (41)")
            (tmp_path / "rig" / "policy.cedar").write_text(NO_WRITING)
            assert (await visited.call("write_query", query="DELETE FROM t")).is_error
            found = await visited.call("read_query", query="SELECT sum(n) AS s FROM t")
            assert "42" in text_of(found)
