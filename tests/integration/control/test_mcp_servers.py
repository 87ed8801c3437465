"""Our MCP client with the reference servers and the official conformance suite."""

import base64
import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from intramuros.control.mcp.base import McpError
from intramuros.control.mcp.client import Limits
from intramuros.kernel.config import environment
from tests.fakes import mcp_visitor
from tests.fakes.mcp_visitor import visit

ROOT: Final = Path(__file__).parents[3]
NODE: Final = ROOT / "tests" / "integration" / "node"
MODULES: Final = NODE / "node_modules"
UPSTREAM: Final = (
    Path(environment().get("INTRAMUROS_DEMO_UPSTREAM", ROOT / ".venv-upstream")) / "bin"
)
LISTENING: Final = re.compile(r"(?:listening |Uvicorn running on http://127\.0\.0\.1:)(\d+)")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        shutil.which("node") is None or not MODULES.is_dir(),
        reason="NO REFERENCE SERVERS: install node and npm, then `make dev`",
    ),
]
with_proxy = pytest.mark.skipif(
    not (UPSTREAM / "mcp-proxy").exists(), reason="NO MCP PROXY: `make upstream` installs it"
)


def node_environment(**more: str) -> dict[str, str]:
    loopback = f"--require={NODE / 'loopback.cjs'}"
    return {"PATH": environment()["PATH"], "NODE_OPTIONS": loopback, **more}


@contextlib.contextmanager
def listening(argv: Sequence[str], **more: str) -> Iterator[str]:
    """Run a server and yield its address once it says where it listens."""
    with subprocess.Popen(
        argv, env=node_environment(**more), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            found = next(filter(None, map(LISTENING.search, process.stderr)), None)
            assert found, "it ended before it listened"
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.kill()


@pytest.fixture(scope="module", params=["streamableHttp", "sse"])
def everything(request: pytest.FixtureRequest) -> Iterator[str]:
    program = MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
    with listening(["node", str(program), request.param], PORT="0") as address:
        yield f"{address}/{'sse' if request.param == 'sse' else 'mcp'}"


def proxied(*stdio: str) -> contextlib.AbstractContextManager[str]:
    """Serve a server of standard input and output over HTTP."""
    proxy = [str(UPSTREAM / "mcp-proxy"), "--host", "127.0.0.1", "--port", "0", "--"]
    return listening([*proxy, *stdio])


def conform(scenario: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            "node",
            str(MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"),
            "client",
            "--command",
            f"{sys.executable} {mcp_visitor.__file__}",
            "--scenario",
            scenario,
        ],
        cwd=ROOT,
        env=node_environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}"),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


# The others are of elicitation, which nobody is there to answer, and of browsers' OAuth flows:
# credentials come from vaults.
@pytest.mark.parametrize("scenario", ["initialize", "tools_call", "sse-retry"])
def test_the_conformance_suite_is_content(scenario: str) -> None:
    done = conform(scenario)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Passed: ([1-9])/\1, 0 failed, 0 warnings", done.stdout + done.stderr)


def text_of(result: Any) -> str:
    assert not result.is_error, result.content
    return "".join(block["text"] for block in result.content if block["type"] == "text")


async def test_everything_that_a_server_can_answer(everything: str) -> None:
    async with visit(everything) as visited:
        tools = await visited.tools()
        assert {"echo", "get-sum", "get-tiny-image", "get-structured-content"} <= set(tools)
        assert text_of(await visited.call("echo", message="héllo\n🙂")) == "Echo: héllo\n🙂"
        assert "12" in text_of(await visited.call("get-sum", a=5, b=7))
        image = (await visited.call("get-tiny-image")).content
        (picture,) = [block for block in image if block["type"] == "image"]
        source: Any = picture["source"]
        assert source["media_type"] == "image/png"
        assert base64.b64decode(source["data"]).startswith(b"\x89PNG")
        weather = await visited.call("get-structured-content", location="Chicago")
        assert "temperature" in text_of(weather)
        for kind in ("text", "blob"):
            type_name = kind.capitalize()
            resource = await visited.call(
                "get-resource-reference", resourceType=type_name, resourceId=1
            )
            assert not resource.is_error
            assert resource.content
        links = await visited.call("get-resource-links", count=3)
        assert text_of(links)


async def test_progress_does_not_disturb_and_wrong_input_is_a_result(everything: str) -> None:
    async with visit(everything) as visited:
        done = await visited.call("trigger-long-running-operation", duration=0.4, steps=4)
        assert "completed" in text_of(done).lower()
        for tool, arguments in (
            ("get-sum", {"a": "no", "b": []}),
            ("no-such-tool", {}),
            ("get-resource-links", {"count": 10**9}),
        ):
            wrong = await visited.call(tool, **arguments)
            assert wrong.is_error
            assert wrong.content
        assert text_of(await visited.call("echo", message="still here")) == "Echo: still here"


async def test_nobody_is_asked_on_a_servers_behalf(everything: str) -> None:
    """A server that wants to sample or to ask is told that we cannot; its tools are not shown."""
    async with visit(everything) as visited:
        tools = await visited.tools()
        assert not [name for name in tools if "sampling" in name or "elicitation" in name]


async def test_a_call_over_its_time_is_given_up_and_the_next_works(everything: str) -> None:
    async with visit(everything, Limits(call_s=0.5)) as visited:
        with pytest.raises(McpError, match="no answer within"):
            await visited.call("trigger-long-running-operation", duration=20, steps=2)
        assert text_of(await visited.call("echo", message="next")) == "Echo: next"


@with_proxy
async def test_a_file_server(tmp_path: Path) -> None:
    program = MODULES / "@modelcontextprotocol" / "server-filesystem" / "dist" / "index.js"
    (tmp_path / "notes.txt").write_text("wall\n" * 3)
    with proxied("node", str(program), str(tmp_path)) as address:
        async with visit(f"{address}/mcp") as visited:
            tools = await visited.tools()
            assert tools["read_text_file"].read_only
            assert not tools["write_file"].read_only
            read = await visited.call("read_text_file", path=str(tmp_path / "notes.txt"))
            assert text_of(read).startswith("wall\nwall\nwall\n")
            new = tmp_path / "new.txt"
            assert not (
                await visited.call("write_file", path=str(new), content="x" * 300_000)
            ).is_error
            assert new.stat().st_size == 300_000
            assert (await visited.call("read_text_file", path="/etc/passwd")).is_error


@with_proxy
async def test_a_database_server(tmp_path: Path) -> None:
    server = str(UPSTREAM / "mcp-server-sqlite")
    with proxied(server, "--db-path", str(tmp_path / "x.db")) as address:
        async with visit(f"{address}/mcp") as visited:
            make = "CREATE TABLE t (n INTEGER)"
            assert not (await visited.call("create_table", query=make)).is_error
            await visited.call("write_query", query="INSERT INTO t VALUES (1), (41)")
            found = await visited.call("read_query", query="SELECT sum(n) AS s FROM t")
            assert "42" in text_of(found)
            refused = await visited.call("read_query", query="DROP TABLE t")
            assert "only select" in str(refused.content).lower()
