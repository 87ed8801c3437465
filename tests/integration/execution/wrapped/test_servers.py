"""Wrapped MCP servers: the official SDK's, as programs and over HTTP, and one from PyPI."""

import gzip
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from intramuros.execution.sandbox.base import SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.tools.outcomes import ToolOutcome
from intramuros.execution.wrapped import servers as module
from intramuros.execution.wrapped.config import Wrapped
from intramuros.execution.wrapped.servers import Outside, called_inside
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import SystemClock

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

PROGRAM = Path(__file__).parents[3] / "fakes" / "mcp_sdk_program.py"
COMMAND = (sys.executable, str(PROGRAM))


def program(**changes: Any) -> Wrapped:
    return replace(Wrapped("program", {}, command=COMMAND), **changes)


@asynccontextmanager
async def kept(server: Wrapped) -> AsyncIterator[Outside]:
    outside, stop = Outside(server, SystemClock()), Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(outside.run, stop)
        try:
            yield outside
        finally:
            stop.request()


def text(outcome: ToolOutcome) -> str:
    return str(outcome.content[0]["text"])


async def test_a_program_is_one_session_and_is_started_anew_when_it_ends() -> None:
    async with kept(program(variables={"GREETING": "hello"})) as server:
        assert text(await server.call("add", {"a": 2, "b": 3})) == "5"
        assert [text(await server.call("counted", {})) for _ in range(2)] == ["1", "2"]
        assert text(await server.call("told", {"name": "GREETING"})) == "hello"
        assert text(await server.call("told", {"name": "INTRAMUROS_URL"})) == "nothing"
        gone = await server.call("crash", {})
        assert gone.is_error
        assert "not known whether it was carried out" in text(gone)
        assert text(await server.call("counted", {})) == "1", "another process"


async def test_what_a_server_says_is_wrong_is_an_error_and_it_goes_on() -> None:
    async with kept(program()) as server:
        for tool, arguments in (("none", {}), ("add", {"a": "x"})):
            outcome = await server.call(tool, arguments)
            assert outcome.is_error
        assert text(await server.call("counted", {})) == "1"


async def test_calls_of_several_sessions_run_at_once_and_each_has_its_time() -> None:
    async with kept(program(timeout_s=1.0)) as server:
        late = await server.call("slow", {"seconds": 5})
        assert (late.is_error, text(late)) == (True, "The tool did not answer within 1 s.")


async def test_a_long_message_ends_the_session_and_not_the_worker() -> None:
    async with kept(program(max_bytes=50_000)) as server:
        assert len(text(await server.call("long", {"size": 10_000}))) == 10_000
        outcome = await server.call("long", {"size": 200_000})
        assert outcome.is_error
        assert len(text(outcome)) < 500
        assert text(await server.call("add", {"a": 1, "b": 1})) == "2"


async def test_a_server_that_hangs_is_left_and_one_that_is_slow_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "server.py"
    script.write_text(TINY)
    tiny = program(command=(sys.executable, str(script)), timeout_s=1.0)
    async with kept(program(timeout_s=1.0)) as server:
        assert text(await server.call("counted", {})) == "1"
        assert (await server.call("slow", {"seconds": 3})).is_error
        assert text(await server.call("counted", {})) == "2", "the same process"
    monkeypatch.setattr(module, "_PING_S", 0.5)
    async with kept(tiny) as server:
        assert text(await server.call("counted", {})) == "1"
        assert "did not answer within 1 s" in text(await server.call("hang", {}))
        assert text(await server.call("counted", {})) == "1", "another process"


async def test_a_server_that_asks_without_end_is_left(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(TINY)
    async with kept(program(command=(sys.executable, str(script)))) as server:
        assert "its session ended" in text(await server.call("ask", {}))
        assert text(await server.call("counted", {})) == "1"


async def test_what_is_packed_is_not_unpacked() -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.headers["accept-encoding"])
        bomb = gzip.compress(b"x" * 1_000_000)
        return httpx2.Response(200, content=bomb, headers={"content-encoding": "GZIP"})

    class Pretended(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            return answer(request)

    web = Wrapped("web", {}, url="http://127.0.0.1:1/mcp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx2, "AsyncHTTPTransport", Pretended)
        async with kept(web) as server:
            assert "cannot be reached" in text(await server.call("add", {}))
    assert set(asked) == {"identity"}
    transport = module._Bounded(httpx2.MockTransport(answer), 1000)
    async with httpx2.AsyncClient(transport=transport) as http:
        with pytest.raises(httpx2.ReadError, match="packed"):
            await http.get("http://web/")


async def test_a_server_that_is_not_there_is_said_to_and_not_hammered(tmp_path: Path) -> None:
    for gone in (
        program(command=(str(tmp_path / "none"),)),
        program(command=("/bin/true",)),
        Wrapped("web", {}, url="http://127.0.0.1:1/mcp"),
    ):
        async with kept(gone) as server:
            for why in ("cannot be reached", "try again later"):
                outcome = await server.call("add", {})
                assert outcome.is_error
                assert why in text(outcome)


async def test_in_a_sandbox_each_call_is_a_process_of_its_own(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    sandbox = await provider.create(SandboxSpec(), "sesn_mcp")
    script = tmp_path / "server.py"
    script.write_text(TINY)
    await sandbox.call("write", {"file_path": "/workspace/server.py", "content": TINY})
    server = Wrapped(
        *("tiny", {}), command=("python3", "/workspace/server.py"), inside=True, max_bytes=50_000
    )
    for _ in range(2):
        outcome = await called_inside(sandbox, server, "counted", {})
        assert text(outcome) == "1"
    where = await called_inside(sandbox, server, "where", {})
    assert text(where) == "1000 /workspace"
    for tool in ("crash", "flood"):
        outcome = await called_inside(sandbox, server, tool, {})
        assert outcome.is_error
        assert "not known" in text(outcome)
    missing = replace(server, command=("/nowhere/at/all",))
    assert (await called_inside(sandbox, missing, "counted", {})).is_error
    await sandbox.destroy()


# The host's interpreter has no MCP SDK inside a sandbox, so this one speaks the protocol by hand.
TINY = """
import json, os, sys, time
count = 0
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    method, answer = asked["method"], {"jsonrpc": "2.0", "id": asked["id"]}
    if method == "initialize":
        answer["result"] = {
            "protocolVersion": asked["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "tiny", "version": "1"},
        }
    elif method == "tools/call":
        name = asked["params"]["name"]
        if name == "crash":
            os._exit(1)
        if name == "hang":
            time.sleep(100)
        while name == "ask":
            print(json.dumps({"jsonrpc": "2.0", "id": "q", "method": "ping"}))
        if name == "flood":
            sys.stdout.write("x" * 10_000_000)
            sys.stdout.flush()
        count += 1
        said = {"counted": str(count), "where": f"{os.getuid()} {os.getcwd()}"}.get(name, "")
        answer["result"] = {"content": [{"type": "text", "text": said}]}
    elif method == "tools/list":
        answer["result"] = {"tools": []}
    else:
        answer["error"] = {"code": -32601, "message": "no such method"}
    print(json.dumps(answer), flush=True)
"""


MANY = """
import json, sys
for line in sys.stdin:
    said = json.loads(line)
    if "id" not in said:
        continue
    if said["method"] == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "many", "version": "1"}}
    elif said["method"] == "tools/list":
        schema = {"type": "object", "properties": {"a": {"pattern": "^(a+)+$"}}}
        result = {"tools": [
            {"name": "many", "inputSchema": {"type": "object"}, "outputSchema": schema}]}
    elif said["method"] == "tools/call":
        count = said["params"]["arguments"]["count"]
        result = {"content": [{"type": "text", "text": "x"}] * count,
                  "structuredContent": {"a": "a" * 60 + "!"}}
    else:
        error = {"code": -32601, "message": "unknown"}
        print(json.dumps({"jsonrpc": "2.0", "id": said["id"], "error": error}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": said["id"], "result": result}), flush=True)
"""


async def test_an_answer_of_many_blocks_costs_its_own_call_alone(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(MANY)
    async with kept(program(command=(sys.executable, str(script)))) as server:
        fits = await server.call("many", {"count": 1000})
        assert (len(fits.content), fits.is_error) == (1000, False)
        refused = await server.call("many", {"count": 1001})
        assert refused.is_error
        assert "1001 content blocks; at most 1000" in text(refused)
        lost = await server.call("many", {"count": 300_000})
        assert "its session ended" in text(lost)
        assert len((await server.call("many", {"count": 2})).content) == 2


class Pieces(httpx2.AsyncByteStream):
    def __init__(self, piece: bytes) -> None:
        self._piece = piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(20):
            yield self._piece


async def test_bodies_and_events_of_too_many_values_end_early() -> None:
    class Pretended(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            piece = b"data: [1]\n\n" if request.method == "GET" else b"["
            events = {"content-type": "text/event-stream"}
            return httpx2.Response(200, stream=Pieces(piece * 10_000), headers=events)

    bounded = module._Bounded(Pretended(), 16 << 20)
    async with httpx2.AsyncClient(transport=bounded) as http:
        assert len((await http.get("http://server/mcp")).content) == 11 * 200_000
        with pytest.raises(httpx2.ReadError, match="100000 values"):
            await http.post("http://server/mcp")
