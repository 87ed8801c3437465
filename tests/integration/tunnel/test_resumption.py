"""Calls of programs whose connections are cut: they run once, and are answered once."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from intramuros.control.mcp.base import McpError
from intramuros.control.mcp.transport import TunnelTransport
from intramuros.protocol.who import Kind, Who
from intramuros.tunnel import program_sessions
from intramuros.tunnel.kept_events import KeptLimits, Shelf
from intramuros.tunnel.programs import Program
from tests.fakes.cutting import Cutting
from tests.fakes.mcp_visitor import visit
from tests.integration.control.test_mcp_servers import text_of
from tests.integration.tunnel.rig import (
    Rig,
    client_of,
    eventually,
    running_edge,
    running_gateway,
    url,
)
from tests.integration.tunnel.test_program_routes import (
    JSON,
    SCRIPT,
    ask,
    config_of,
    events,
    served,
    start,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

PROGRAM = Program((sys.executable, "-I", str(SCRIPT)), confined=False)
STREAM = {"accept": "text/event-stream"}


EDGE = """
import sys
from functools import partial
from pathlib import Path
import anyio

sys.stdout = sys.stderr
from intramuros.tunnel.edge_app import EdgeSettings, serve_edge

home, port = Path(sys.argv[1]), int(sys.argv[2])
settings = EdgeSettings(
    cert_file=home / "edge.crt",
    key_file=home / "edge.key",
    control_key_file=home / "control.pub",
    audit_file=home / sys.argv[3],
    port=port,
)
ready = lambda listening: print(listening.port, file=sys.__stdout__, flush=True)
anyio.run(partial(serve_edge, settings, on_ready=ready))
"""


class EdgeProcess:
    """An edge as a process of its own, to be killed."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.name = name
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        await anyio.to_thread.run_sync(self._start)

    def _start(self) -> None:
        argv = [sys.executable, "-c", EDGE, str(self.rig.home), str(self.port), self.name]
        env = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": "/usr/bin:/bin"}
        self.process = subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@dataclass
class Tunnel:
    """A tunnel through two edges that can be killed, to a program."""

    rig: Rig
    edges: list[EdgeProcess]
    home: Path
    ways: list[Cutting] = field(default_factory=list)

    @property
    def ports(self) -> list[int]:
        return [edge.port for edge in self.edges]

    @property
    def done(self) -> Path:
        return self.home / "done"

    def arguments(self, what: str = "") -> dict[str, str]:
        """Return what a call of the tool with an effect says."""
        return {"done": str(self.done), "until": str(self.home / "until"), "what": what}

    def way(self) -> Cutting:
        """Return a way through the tunnel."""
        self.ways.append(Cutting(TunnelTransport(self.rig.dialer(*self.ports))))
        return self.ways[-1]

    async def begun(self, times: int = 1) -> None:
        """Wait until so many calls have their effects, and can be taken up again."""

        async def so() -> bool:
            done = self.done.exists() and len(self.done.read_text()) >= times
            return done and len([way for way in self.ways if way.heard]) >= times

        await eventually(so, 60)

    def finish(self) -> None:
        (self.home / "until").touch()

    async def cut(self) -> None:
        """Kill the first edge, and see that its calls are gone."""
        before = self.gone()
        self.edges[0].kill()

        async def so() -> bool:
            return self.gone() > before

        await eventually(so, 60)

    def gone(self) -> int:
        return len(self.outcomes(ended="caller_gone"))

    def outcomes(self, **fields: str) -> list[dict[str, Any]]:
        return self.recorded("mcp.response", **fields)

    def recorded(self, kind: str, **fields: str) -> list[dict[str, Any]]:
        found: list[Any] = [
            record["fields"]
            for record in self.rig.audit("gateway-audit.jsonl")
            if record["kind"] == kind
        ]
        return [each for each in found if fields.items() <= each.items()]


@asynccontextmanager
async def tunnel(home: Path, edges: int = 2) -> AsyncIterator[Tunnel]:
    rig = Rig(home / "rig")
    made = [EdgeProcess(rig, f"edge-{n}-audit.jsonl") for n in range(edges)]
    try:
        for edge in made:
            await edge.start()
        found = Tunnel(rig, made, home)
        config = replace(config_of(rig, 1, PROGRAM), edges=rig.config(found.ports, 1).edges)
        async with running_gateway(config, links=edges):
            yield found
    finally:
        for edge in made:
            edge.kill()


@pytest.mark.parametrize("where", ["another edge", "the same edge"])
async def test_t11_a_call_goes_on_where_its_edge_was_killed(tmp_path: Path, where: str) -> None:
    answers: list[str] = []
    async with tunnel(tmp_path, 2 if where == "another edge" else 1) as made:
        async with visit(url("/mcp", "tools"), way=made.way) as found:

            async def call(what: str) -> None:
                answers.append(text_of(await found.call("effect", **made.arguments(what))))

            async with anyio.create_task_group() as group:
                group.start_soon(call, "a")
                await made.begun()
                await made.cut()
                if where == "the same edge":
                    await made.edges[0].start()
                made.finish()
            # The session lives on, with the same program.
            await call("b")
        calls = made.recorded("mcp.request", name="effect")
        (resumed,) = [each for each in made.recorded("mcp.request") if "resumes_after" in each]
        (outcome,) = [each for each in made.recorded("mcp.response") if "resumes_after" in each]
    assert answers == ["done a", "done b"]
    assert made.done.read_text() == "xx"
    assert len(calls) == 2
    assert (resumed["http_method"], resumed["session"]) == ("GET", "sesn_1")
    assert outcome["ended"] == "complete"


async def test_many_calls_that_are_cut_at_once_are_each_answered_once(tmp_path: Path) -> None:
    answers: dict[str, str] = {}
    async with tunnel(tmp_path) as made:

        async def session(name: str) -> None:
            async with visit(url("/mcp", "tools"), way=made.way) as found:
                answers[name] = text_of(await found.call("effect", **made.arguments(name)))

        async with anyio.create_task_group() as group:
            for name in "abcdef":
                group.start_soon(session, name)
            await made.begun(6)
            await made.cut()
            made.finish()
    assert answers == {name: f"done {name}" for name in "abcdef"}
    assert made.done.read_text() == "x" * 6


async def test_the_official_client_takes_its_call_up_again(tmp_path: Path) -> None:
    progress: list[float] = []
    answers: list[str] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        progress.append(done)

    async with tunnel(tmp_path) as made, httpx2.AsyncClient(transport=made.way()) as http:
        transport = streamable_http_client(url("/mcp", "tools"), http_client=http)
        async with Client(transport, mode="auto") as client:

            async def call() -> None:
                arguments = made.arguments("a")
                result = await client.call_tool("effect", arguments, progress_callback=note)
                answers.append(result.content[0].text)  # type: ignore[union-attr]

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await made.begun()
                await made.cut()
                made.finish()
    assert (answers, progress, made.done.read_text()) == (["done a"], [1.0], "x")


class Raw:
    """A caller that speaks HTTP itself, and hangs up when it likes."""

    def __init__(self, http: httpx2.AsyncClient, session: str) -> None:
        self.http = http
        self.session = session

    async def hang_up(self, id: int, tool: str, **arguments: Any) -> str:
        """Call a tool and hang up at once; return the id of the stream's first event."""
        meta = arguments.pop("meta", {})
        params = {"name": tool, "arguments": arguments, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
        return await self.ask(body)

    async def ask(self, body: dict[str, Any]) -> str:
        headers = {**JSON, "mcp-session-id": self.session, "mcp-protocol-version": "2025-11-25"}
        async with self.http.stream(
            "POST", url("/mcp", "tools"), json=body, headers=headers
        ) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("id:"):
                    return line.partition(":")[2].strip()
        raise AssertionError("no event")

    async def after(self, id: str, **changes: str) -> httpx2.Response:
        """Take a stream up again."""
        headers = {"mcp-session-id": self.session, **STREAM, "last-event-id": id, **changes}
        return await self.http.get(url("/mcp", "tools"), headers=headers)


@asynccontextmanager
async def raw(home: Path, made: Program = PROGRAM) -> AsyncIterator[tuple[Rig, int, Raw]]:
    async with served(home, made) as (rig, port), client_of(rig, port) as http:
        yield rig, port, Raw(http, (await start(http)).headers["mcp-session-id"])


async def test_a_stream_is_taken_up_by_its_owner_after_each_event_and_by_nobody_else(
    tmp_path: Path,
) -> None:
    async with raw(tmp_path) as (rig, port, mine):
        meta = {"progressToken": "t"}
        first = await mine.hang_up(2, "progress", steps=3, meta=meta)
        other = await mine.hang_up(3, "echo", text="other")
        whole = await mine.after(first)
        assert [each.get("id", "notice") for each in events(whole)] == [*["notice"] * 3, 2]
        ids = [line.split(": ")[1] for line in whole.text.splitlines() if line.startswith("id:")]
        for at, id in enumerate(ids, start=1):
            assert events(await mine.after(id)) == events(whole)[at:]
        (answer,) = events(await mine.after(other))
        assert answer["result"]["content"][0]["text"] == "other"
        # Whoever else learns both ids has nothing of them.
        rig.session = "sesn_2"
        async with client_of(rig, port) as http:
            own = (await start(http)).headers["mcp-session-id"]
            stranger = Raw(http, own)
            assert (await stranger.after(first)).status_code == 400
            stranger.session = mine.session
            assert (await stranger.after(first)).status_code == 404
        rig.session = "sesn_1"
        for bad in (first[:-1], f"{first[:-1]}9", "0", f"{'0' * 32}-0", "x" * 5000):
            assert (await mine.after(bad)).status_code == 400, bad
        assert (await mine.after(first, accept="*/*")).status_code == 406
        ended = await mine.http.delete(
            url("/mcp", "tools"), headers={**JSON, "mcp-session-id": mine.session}
        )
        assert ended.status_code == 200
        assert (await mine.after(first)).status_code == 404


async def test_what_is_asked_after_a_cut_is_not_cancelled_by_it(tmp_path: Path) -> None:
    async with raw(tmp_path) as (_, _, mine):
        done, until = tmp_path / "done", tmp_path / "until"
        first = await mine.hang_up(2, "effect", done=str(done), until=str(until), what="it")
        found: list[httpx2.Response] = []

        async def wait() -> None:
            found.append(await mine.after(first))

        async with anyio.create_task_group() as group:
            # The later one has the stream; the earlier ends without an answer.
            group.start_soon(wait)
            group.start_soon(wait)

            async def begun() -> bool:
                return done.exists()

            await eventually(begun, 60)
            await eventually(partial(one_left, found), 60)
            until.touch()
        answers = [each for response in found for each in events(response)]
        assert [each["id"] for each in answers] == [2]
        assert done.read_text() == "x"


async def one_left(found: list[httpx2.Response]) -> bool:
    return len(found) == 1


async def test_a_program_that_ends_answers_who_came_back(tmp_path: Path) -> None:
    async with raw(tmp_path) as (_, _, mine):
        first = await mine.hang_up(2, "sleep", seconds=0.5)
        # Who came back waits for its answer; what it asks then ends the program.
        (answer,) = events(await mine.after(first))
        assert answer["id"] == 2
        second = await mine.hang_up(3, "die")
        late = await mine.after(second)
        if late.status_code == 200:
            assert "gave no answer" in events(late)[0]["error"]["message"]
        else:
            assert late.status_code == 404


async def test_a_list_is_filtered_whichever_way_it_is_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.policy = """
        permit (principal, action == Action::"connect", resource);
        permit (principal, action == Action::"http", resource);
        permit (principal, action == Action::"call_tool", resource == Tool::"tools/echo");
    """
    rig.who = (Who(Kind.API_KEY, "apikey_1"),)
    async with (
        running_edge(rig) as port,
        running_gateway(config_of(rig, port, PROGRAM)),
        client_of(rig, port) as http,
    ):
        mine = Raw(http, (await start(http)).headers["mcp-session-id"])
        first = await mine.ask({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
        (answer,) = events(await mine.after(first))
        assert [tool["name"] for tool in answer["result"]["tools"]] == ["echo"]
        for accepted in ("*/*", "text/*", "Text/Event-Stream"):
            assert (await mine.after(first, accept=accepted)).status_code == 406


async def test_what_is_kept_is_bounded_and_what_is_not_kept_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = KeptLimits(session_bytes=200_000, route_bytes=200_000)
    monkeypatch.setattr(program_sessions, "Shelf", partial(Shelf, limits=limits))
    async with raw(tmp_path) as (rig, port, mine):
        first = await mine.hang_up(2, "flood", size=100_000)
        assert len(events(await mine.after(first))) == 1
        for id in range(3, 6):
            assert (
                await ask(mine.http, mine.session, id, "flood", size=100_000)
            ).status_code == 200
        assert (await mine.after(first)).status_code == 400
        # A visitor whose answer could not be kept is told so, and does not call again.

        def way() -> Cutting:
            return Cutting(TunnelTransport(rig.dialer(port)), 10_000)

        async with visit(url("/mcp", "tools"), way=way) as found:
            with pytest.raises(McpError, match=r"not to be had \(HTTP 400\)"):
                await found.call("flood", size=400_000)
