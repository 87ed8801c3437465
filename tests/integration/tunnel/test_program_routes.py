"""Programs as routes, as an agent meets them: through edge, gateway, policy and record."""

import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from structlog.testing import capture_logs

from intramuros.control.mcp.base import McpError
from intramuros.control.mcp.transport import TunnelTransport
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock
from intramuros.tunnel import conversation
from intramuros.tunnel.config import GatewayConfig
from intramuros.tunnel.confine import check, find_bwrap
from intramuros.tunnel.doctor import Finding, Level, examine
from intramuros.tunnel.gateway_app import GatewaySettings
from intramuros.tunnel.programs import Program
from intramuros.tunnel.routes import RouteTable
from tests.fakes import mcp_program
from tests.fakes.mcp_visitor import Visit, visit
from tests.integration.control.test_mcp_servers import MODULES, text_of
from tests.integration.tunnel.rig import (
    DOMAIN,
    Rig,
    client_of,
    eventually,
    running_edge,
    running_gateway,
    url,
)
from tests.unit.kernel.test_programs import alive

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

SCRIPT = Path(mcp_program.__file__)
PYTHON = tuple(Path(p) for p in (sys.prefix, sys.base_prefix, SCRIPT.parent))
JSON = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


def program(**changes: Any) -> Program:
    made = Program((sys.executable, "-I", str(SCRIPT)), read=PYTHON)
    return replace(made, **changes)


def here(made: Program) -> Program:
    """Return a program, or skip where this host makes no sandbox."""
    try:
        check(made, find_bwrap())
    except OperatorError as error:
        pytest.skip(f"NO SANDBOX ON THIS HOST: {error.problem}")
    return made


def config_of(rig: Rig, edge_port: int, made: Program) -> GatewayConfig:
    return replace(rig.config([edge_port], 1), routes=RouteTable({"tools": made}, DOMAIN))


@asynccontextmanager
async def served(home: Path, made: Program) -> AsyncIterator[tuple[Rig, int]]:
    rig = Rig(home)
    async with running_edge(rig) as port, running_gateway(config_of(rig, port, made)):
        yield rig, port


@asynccontextmanager
async def visited(home: Path, made: Program) -> AsyncIterator[tuple[Rig, Visit]]:
    async with (
        served(home, made) as (rig, port),
        visit(url("/mcp", "tools"), way=lambda: TunnelTransport(rig.dialer(port))) as found,
    ):
        yield rig, found


async def said(found: Visit, tool: str, **arguments: Any) -> str:
    return text_of(await found.call(tool, **arguments))


async def test_a_program_is_called_and_recorded_like_any_server(tmp_path: Path) -> None:
    async with visited(tmp_path, here(program())) as (rig, found):
        assert set(await found.tools()) == set(mcp_program.TOOLS)
        assert await said(found, "echo", text="héllo\n🙂") == "héllo\n🙂"
        pid = await said(found, "pid")
        assert await said(found, "pid") == pid
        assert len(await said(found, "flood", size=1_000_000)) > 10_000
    calls = [
        record["fields"]
        for record in rig.audit("gateway-audit.jsonl")
        if record["kind"] == "mcp.request"
    ]
    assert {call["upstream"] for call in calls} == {f"program:{Path(sys.executable).name}"}  # type: ignore[index,call-overload]
    assert "echo" in {call.get("name") for call in calls}  # type: ignore[attr-defined]


async def test_a_program_sees_its_walls(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "in.txt").write_text("inside")
    (tmp_path / "out.txt").write_text("outside")
    secret = tmp_path / "secret"
    secret.write_text("s3cret-value\n")
    made = here(
        program(
            read=(*PYTHON, files), variables={"LEVEL": "info"}, secret_files={"PASSWORD": secret}
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with visited(tmp_path / "rig", made) as (_, found):
            variables = json.loads(await said(found, "environ"))
            assert variables["PASSWORD"] == "s3cret-value"
            assert variables["LEVEL"] == "info"
            assert set(variables) <= {
                *("PATH", "HOME", "TMPDIR", "LANG", "PWD", "LEVEL", "PASSWORD", "LC_CTYPE")
            }
            assert await said(found, "read", path=str(files / "in.txt")) == "inside"
            for path in (tmp_path / "out.txt", secret, Path("/etc/passwd"), Path("/etc/shadow")):
                assert "refused" in await said(found, "read", path=str(path))
            assert "refused" in await said(found, "write", path=str(files / "new"), text="x")
            assert "refused" in await said(found, "connect", port=port)
            command = await said(found, "read", path="/proc/1/cmdline")
            assert "s3cret-value" not in command
    wider = here(program(write=(files,), network=True))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with visited(tmp_path / "wider", wider) as (_, found):
            assert await said(found, "write", path=str(files / "new"), text="x") == "written"
            assert await said(found, "connect", port=port) == "connected"
    assert (files / "new").read_text() == "x"


async def test_each_caller_has_a_program_of_its_own_and_it_ends_with_them(tmp_path: Path) -> None:
    made = Program((sys.executable, "-I", str(SCRIPT)), confined=False)
    async with served(tmp_path, made) as (rig, port), client_of(rig, port) as client:
        pids, sessions = [], []
        for _ in range(2):
            sessions.append((await start(client)).headers["mcp-session-id"])
            pids.append(await pid_of(client, sessions[-1]))
        assert len(set(pids)) == 2
        for pid, session in zip(pids, sessions, strict=True):
            assert alive(pid)
            mine = {**JSON, "mcp-session-id": session}
            assert (await client.delete(url("/mcp", "tools"), headers=mine)).status_code == 200

            async def ended(pid: int = pid) -> bool:
                return not alive(pid)

            await eventually(ended, 30)
        assert (await start(client)).status_code == 200


async def test_two_gateways_serve_a_session_and_one_takes_over_when_the_other_is_gone(
    tmp_path: Path,
) -> None:
    made = Program((sys.executable, "-I", str(SCRIPT)), confined=False)
    rig, records = Rig(tmp_path), ("gateway-audit.jsonl", "gateway-2-audit.jsonl")
    async with running_edge(rig) as port:
        one = config_of(rig, port, made)
        two = replace(one, audit_file=rig.home / records[1])
        async with (
            running_gateway(one) as first,
            running_gateway(two) as second,
            visit(url("/mcp", "tools"), way=lambda: TunnelTransport(rig.dialer(port))) as found,
        ):
            answers: list[str] = []

            async def several() -> None:
                answers.extend([await said(found, "pid") for _ in range(5)])

            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(several)
            assert (len(answers), len(set(answers))) == (20, 1)
            (serving,) = [name for name in records if calls(rig, name)]
            (first if serving == records[0] else second).request()

            async def taken_over() -> bool:
                try:
                    return await said(found, "pid") not in answers
                except McpError:
                    return False

            await eventually(taken_over, 60)


def calls(rig: Rig, name: str) -> list[object]:
    if not (rig.home / name).exists():
        return []
    return [record for record in rig.audit(name) if record["kind"] == "mcp.request"]


async def test_a_call_whose_program_dies_fails_once_and_the_next_finds_a_new_one(
    tmp_path: Path,
) -> None:
    async with visited(tmp_path, here(program())) as (_, found):
        assert await said(found, "echo", text="1") == "1"
        dead = await found.call("die")
        assert dead.is_error
        assert await said(found, "echo", text="2") == "2"
        # What is no message is passed over.
        assert await said(found, "noise", before="Listening on port 1\n{}\n[]\n\x00") == "heard"


async def start(client: httpx2.AsyncClient, **more: str) -> httpx2.Response:
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    return await client.post(url("/mcp", "tools"), json=body, headers={**JSON, **more})


async def ask(
    client: httpx2.AsyncClient, session: str, id: int, tool: str, **arguments: Any
) -> httpx2.Response:
    meta = arguments.pop("meta", {})
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
    headers = {**JSON, "mcp-session-id": session}
    return await client.post(url("/mcp", "tools"), json=body, headers=headers)


async def pid_of(client: httpx2.AsyncClient, session: str) -> int:
    (answer,) = events(await ask(client, session, 2, "pid"))
    return int(answer["result"]["content"][0]["text"])


def events(answer: httpx2.Response) -> list[dict[str, Any]]:
    return [
        json.loads(line.removeprefix("data: "))
        for line in answer.text.splitlines()
        if line.startswith("data: {")
    ]


async def test_progress_comes_with_its_own_call_and_answers_with_theirs(tmp_path: Path) -> None:
    async with served(tmp_path, here(program())) as (rig, port), client_of(rig, port) as client:
        session = (await start(client)).headers["mcp-session-id"]
        found: dict[int, list[dict[str, Any]]] = {}

        async def call(id: int) -> None:
            answer = await ask(
                client, session, id, "progress", steps=3, meta={"progressToken": f"t{id}"}
            )
            found[id] = events(answer)

        async with anyio.create_task_group() as group:
            for id in range(2, 7):
                group.start_soon(call, id)
        for id, heard in found.items():
            tokens = [each["params"]["progressToken"] for each in heard if "method" in each]
            assert tokens == [f"t{id}"] * 3
            assert heard[-1]["id"] == id


async def test_every_open_call_of_a_dead_program_is_answered(tmp_path: Path) -> None:
    async with served(tmp_path, here(program())) as (rig, port), client_of(rig, port) as client:
        session = (await start(client)).headers["mcp-session-id"]
        errors: list[dict[str, Any]] = []

        async def call(id: int, tool: str) -> None:
            errors.extend(events(await ask(client, session, id, tool, seconds=0.3)))

        async with anyio.create_task_group() as group:
            group.start_soon(call, 3, "sleep")
            await anyio.sleep(0.1)
            group.start_soon(call, 4, "die")
            group.start_soon(call, 5, "sleep")
        answered = {each["id"]: each for each in errors}
        assert "result" in answered[3]
        for id in (4, 5):
            assert "gave no answer: it ended" in answered[id]["error"]["message"]
        assert (await ask(client, session, 6, "pid")).status_code == 404


async def test_a_session_is_only_its_owners_and_has_an_end(tmp_path: Path) -> None:
    made = here(program(sessions=2))
    async with served(tmp_path, made) as (rig, port), client_of(rig, port) as client:
        session = (await start(client)).headers["mcp-session-id"]
        assert (await ask(client, session, 2, "pid")).status_code == 200
        assert (await ask(client, "0" * 32, 2, "pid")).status_code == 404
        rig.session = "sesn_2"
        async with client_of(rig, port) as stranger:
            assert (await ask(stranger, session, 2, "pid")).status_code == 404
        rig.session = "sesn_1"
        second = await start(client)
        assert second.status_code == 200
        full = await start(client)
        assert (full.status_code, "too many sessions" in full.text) == (503, True)
        gone = await client.delete(
            url("/mcp", "tools"), headers={**JSON, "mcp-session-id": session}
        )
        assert gone.status_code == 200
        assert (await ask(client, session, 3, "pid")).status_code == 404
        assert (await start(client)).status_code == 200


async def test_a_session_that_nobody_uses_ends(tmp_path: Path) -> None:
    made = here(program(idle_s=1.0))
    async with served(tmp_path, made) as (rig, port), client_of(rig, port) as client:
        id = (await start(client)).headers["mcp-session-id"]

        async def idled() -> bool:
            await anyio.sleep(1.5)
            return (await ask(client, id, 4, "pid")).status_code == 404

        await eventually(idled, 30)


async def test_what_is_no_session_is_told_so(tmp_path: Path) -> None:
    async with served(tmp_path, here(program())) as (rig, port), client_of(rig, port) as client:
        elsewhere = await client.get(url("/.well-known/oauth-protected-resource", "tools"))
        assert elsewhere.status_code == 404
        newer = await start(client, **{"mcp-protocol-version": "2026-07-28"})
        assert newer.status_code == 400
        assert "2025-11-25" in newer.json()["error"]["data"]["supported"]
        with capture_logs() as logs:
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            bare = await client.post(url("/mcp", "tools"), json=body, headers=JSON)
            assert bare.status_code == 400
            assert (await client.get(url("/mcp", "tools"), headers=JSON)).status_code in (400, 406)
        assert "program_started" not in [log["event"] for log in logs]


async def test_a_program_that_fails_is_started_anew_but_not_in_a_hot_loop(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret-value")
    text = "import os, sys; sys.exit('no database with ' + os.environ['PASSWORD'])"
    made = here(
        Program((sys.executable, "-c", text), read=PYTHON, secret_files={"PASSWORD": secret})
    )
    async with served(tmp_path, made) as (rig, port), client_of(rig, port) as client:
        with capture_logs() as logs:
            for _ in range(5):
                answer = await start(client)
                assert "gave no answer" in events(answer)[0]["error"]["message"]
        (said,) = [log["said"] for log in logs if log["event"] == "program_ended_unheard"][:1]
        assert "no database with [masked secret]" in said
        assert "s3cret-value" not in str(logs)
        assert len([log for log in logs if log["event"] == "program_started"]) < 5


async def test_a_message_without_end_ends_its_program_and_the_call_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MAX_MESSAGE_BYTES", 100_000)
    made = here(program())
    async with served(tmp_path, made) as (rig, port), client_of(rig, port) as client:
        session = (await start(client)).headers["mcp-session-id"]
        (answer,) = events(await ask(client, session, 2, "flood", size=200_000))
        assert "a message is too long" in answer["error"]["message"]


async def test_a_gateway_that_stops_ends_its_programs(tmp_path: Path) -> None:
    made = Program((sys.executable, "-I", str(SCRIPT)), confined=False)
    async with served(tmp_path, made) as (rig, port), client_of(rig, port) as client:
        session = (await start(client)).headers["mcp-session-id"]
        pid = await pid_of(client, session)
        assert alive(pid)
    assert not alive(pid)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"command": ("/nowhere/server",)}, "is not there in its sandbox"),
        ({"read": (Path("/nowhere"),)}, "there is no /nowhere"),
        ({"secret_files": {"A": Path("/nowhere")}}, "there is no /nowhere"),
        ({"command": ("/nowhere/server",), "confined": False, "read": ()}, "there is no program"),
    ],
)
async def test_a_gateway_does_not_start_with_a_program_that_it_cannot_run(
    tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    here(program())
    rig = Rig(tmp_path)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running_gateway(config_of(rig, 1, program(**change)), links=0):
            await anyio.sleep(30)
    assert caught.group_contains(OperatorError, match=word)


@pytest.mark.skipif(not MODULES.exists(), reason="NO REFERENCE SERVERS: run `make test`")
async def test_the_reference_file_server_as_a_program(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "notes.txt").write_text("wall\n")
    server = MODULES / "@modelcontextprotocol" / "server-filesystem" / "dist" / "index.js"
    made = here(Program(("node", str(server), str(files)), read=(MODULES,), write=(files,)))
    async with visited(tmp_path / "rig", made) as (_, found):
        read = await found.call("read_text_file", path=str(files / "notes.txt"))
        assert text_of(read).startswith("wall")
        new = files / "new.txt"
        assert not (await found.call("write_file", path=str(new), content="x")).is_error
        assert new.read_text() == "x"


async def diagnosed(home: Path, made: Program) -> Finding:
    rig = Rig(home)
    found = [each async for each in examine(config_of(rig, 1, made), rig.home, SystemClock())]
    (finding,) = [each for each in found if each.hop == "route tools"]
    return finding


async def test_the_doctor_starts_the_program_and_says_who_answers(tmp_path: Path) -> None:
    found = await diagnosed(tmp_path, here(program()))
    assert (found.level, "answers as program 1" in found.what) == (Level.OK, True), found
    text = "import sys; sys.exit('no licence')"
    mute = await diagnosed(tmp_path, Program((sys.executable, "-c", text), read=PYTHON))
    assert (mute.level, "it said: no licence" in mute.what) == (Level.FAILURE, True), mute
    lost = await diagnosed(tmp_path, program(command=("/nowhere/server",)))
    assert (lost.level, "is not there" in lost.what) == (Level.FAILURE, True), lost


async def test_a_route_is_configured_in_the_gateways_file(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    here(program())
    async with running_edge(rig) as port:
        text = f"""
            tunnel_domain: {DOMAIN}
            tls: {{cert_file: tls.crt, key_file: tls.key}}
            edge: ["127.0.0.1:{port}"]
            edge_ca_file: edge-ca.crt
            token_file: tunnel-token
            control_key_file: control.pub
            audit_file: gateway-audit.jsonl
            shutdown_timeout: 2s
            routes:
              tools:
                command: [{sys.executable}, -I, {SCRIPT}]
                read: [{", ".join(map(str, PYTHON))}]
                variables: {{LEVEL: info}}
        """
        rig.write("gateway.yaml", text.encode())
        settings = GatewaySettings(rig.home / "gateway.yaml")
        async with running_gateway(settings), client_of(rig, port) as client:
            session = (await start(client)).headers["mcp-session-id"]
            assert '\\"LEVEL\\": \\"info\\"' in (await ask(client, session, 2, "environ")).text
