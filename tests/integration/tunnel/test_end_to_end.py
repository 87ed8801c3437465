import errno
import hashlib
import json
import os
import resource
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import httpx2
import pytest

from intramuros.kernel.appendlog import AppendLog
from intramuros.kernel.errors import DomainError
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.tickets import DialTicket, Fence
from intramuros.tunnel import gateway_app
from intramuros.tunnel.certs import make_ca, make_server_certificate
from tests.integration.tunnel.rig import (
    DOMAIN,
    TUNNEL,
    Rig,
    client_of,
    eventually,
    running_edge,
    running_gateway,
    running_tunnel,
    running_upstream,
    url,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio
CALL = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "find"}}
).encode()
JSON = {"content-type": "application/json"}
MIB = 1024 * 1024


def kinds(records: list[dict[str, object]]) -> list[object]:
    return [record["kind"] for record in records]


def code_of(error: BaseException) -> str | None:
    """Return the code of the DomainError below an httpx2 error."""
    cause = error.__cause__
    assert isinstance(cause, DomainError), repr(cause)
    return cause.hints.code


@pytest.mark.rule("R320")
async def test_a_call_arrives_whole_and_is_on_record_on_both_sides(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    digest = hashlib.sha256(CALL).hexdigest()
    async with running_tunnel(rig, upstream.app) as (client, _):
        for _ in range(3):
            answer = await client.post(url("/echo?a=1&a=2"), content=CALL, headers=JSON)
            assert answer.status_code == 200
            assert answer.json() == {"size": len(CALL), "sha256": digest, "query": "a=1&a=2"}
    method, headers, seen = upstream.requests[0]
    assert (method, seen) == ("POST", CALL)
    assert headers["host"].startswith("127.0.0.1:")
    assert headers["x-forwarded-host"] == f"docs.{DOMAIN}"
    records = rig.audit("gateway-audit.jsonl")
    assert kinds(records) == ["mcp.request", "mcp.response"] * 3
    intent, outcome = records[0]["fields"], records[1]["fields"]
    assert isinstance(intent, dict)
    assert isinstance(outcome, dict)
    assert (intent["method"], intent["name"], intent["session"]) == ("tools/call", "find", "sesn_1")
    assert (intent["request_sha256"], intent["request_bytes"]) == (digest, len(CALL))
    assert (outcome["status"], outcome["ended"]) == (200, "complete")
    edge_kinds = kinds(rig.audit("edge-audit.jsonl"))
    # One dial for three calls: the inner connection was kept.
    assert edge_kinds.count("dial.opened") == edge_kinds.count("dial.closed") == 1
    assert edge_kinds[0] == "link.opened"


async def test_t29_the_edge_sees_ciphertext_only(tmp_path: Path) -> None:
    """Invariant 6: search what the edge relayed for what was said, in both directions."""
    rig, upstream = Rig(tmp_path), Upstream()
    marker = os.urandom(24).hex().encode()
    body = json.dumps({"method": "tools/call", "params": {"name": marker.decode()}}).encode()
    async with running_tunnel(rig, upstream.app) as (client, _):
        secret = {"authorization": f"Bearer {marker.decode()}", **JSON}
        answer = await client.post(url("/echo"), content=body, headers=secret)
        sent_back = answer.json()["sha256"].encode()
    assert upstream.requests[0][2] == body
    recorded = rig.recorded()
    assert len(recorded) > len(body) + len(answer.content)
    for plain in (marker, marker[:12], sent_back, b"tools/call", b"HTTP/1.1", b"authorization"):
        assert plain not in recorded


async def test_events_arrive_as_they_are_sent(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with (
        running_tunnel(rig, upstream.app) as (client, _),
        client.stream("GET", url("/events")) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        chunks = answer.aiter_raw()
        for number in range(5):
            with anyio.fail_after(30):
                assert await anext(chunks) == f"data: {number}\n\n".encode()
            # The server does not go on before we have seen this one.
            upstream.step.set()
        assert [chunk async for chunk in chunks] == []


async def test_large_bodies_both_ways(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    body = os.urandom(6 * MIB)
    async with running_tunnel(rig, upstream.app) as (client, _):
        answer = await client.post(url("/echo"), content=body)
        assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
        received = 0
        async with client.stream("GET", url(f"/big/{64 * MIB}")) as big:
            async for chunk in big.aiter_raw():
                assert chunk.count(b"\xa5") == len(chunk)
                received += len(chunk)
        assert received == 64 * MIB


async def test_t06_a_slow_reader_costs_bounded_memory_and_nobody_else_time(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_tunnel(rig, upstream.app) as (client, _):
        await client.get(url("/echo"))
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with (
            client.stream("GET", url("/endless")),
            client.stream("GET", url("/endless")),
            client.stream("GET", url("/endless")),
            client.stream("GET", url("/endless")),
        ):
            # Every buffer on the way fills up meanwhile, in this one process.
            for _ in range(20):
                with anyio.fail_after(30):
                    assert (await client.get(url("/echo"))).status_code == 200
                await anyio.sleep(0.05)
            grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
        assert grown_mib < 48


async def test_a_caller_that_hangs_up_stops_the_upstream(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_tunnel(rig, upstream.app) as (client, _):
        async with client.stream("GET", url("/endless")) as answer:
            await anext(answer.aiter_raw())
        with anyio.fail_after(30):
            await upstream.cancelled.wait()
    records = rig.audit("gateway-audit.jsonl")
    assert kinds(records) == ["mcp.request", "mcp.response"]
    fields = records[1]["fields"]
    assert isinstance(fields, dict)
    assert fields["ended"] == "caller_gone"


async def test_redirects_are_not_followed_and_unknown_routes_not_dialled(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_tunnel(rig, upstream.app) as (client, _):
        assert (await client.get(url("/redirect"))).status_code == 307
        answer = await client.get(url("/echo", "wiki"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "no_route")
        answer = await client.get(url("/echo", "gone"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (502, "upstream_unreachable")
        assert "'gone'" in answer.json()["error"]["message"]
    assert upstream.requests == []


async def test_an_edge_that_dies_is_dialled_again(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_upstream(upstream.app) as upstream_port:
        async with running_edge(rig) as edge_port:
            pass
        config = rig.config([edge_port], upstream_port)
        async with running_gateway(config, links=0), client_of(rig, edge_port) as client:
            with pytest.raises(httpx2.ConnectError) as caught:
                await client.get(url("/echo"))
            assert code_of(caught.value) == "edge_unreachable"
            for _ in range(2):
                async with running_edge(rig, edge_port):
                    await eventually(lambda: works(client), 30)


async def works(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get(url("/echo"))).status_code == 200
    except httpx2.TransportError:
        return False


async def fails(client: httpx2.AsyncClient) -> bool:
    return not await works(client)


async def test_the_next_edge_is_tried(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    other = Rig(tmp_path / "other", key=rig.key)
    other.edge_ca = rig.edge_ca
    for name in ("edge.crt", "edge.key"):
        other.write(name, (rig.home / name).read_bytes())
    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(other) as empty_port,
        running_edge(rig) as edge_port,
        running_gateway(rig.config([edge_port], upstream_port)),
        client_of(rig, 1, empty_port, edge_port) as client,
        client_of(rig, 1, empty_port) as lost,
    ):
        assert (await client.get(url("/echo"))).status_code == 200
        with pytest.raises(httpx2.ConnectError) as caught:
            await lost.get(url("/echo"))
        assert code_of(caught.value) == "tunnel_disconnected"
    assert "dial.refused" in kinds(other.audit("edge-audit.jsonl"))


@pytest.mark.rule("R306")
async def test_t17_a_rotated_token_gets_no_traffic_until_it_is_replaced(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()

    async def refused() -> bool:
        return "link.refused" in kinds(rig.audit("edge-audit.jsonl"))

    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as edge_port,
        running_gateway(rig.config([edge_port], upstream_port)),
        client_of(rig, edge_port) as kept,
    ):
        assert await works(kept)
        rig.version = 2
        # Open connections are left alone (R306); new ones need the new token.
        assert await works(kept)
        async with client_of(rig, edge_port) as client:
            with pytest.raises(httpx2.ConnectError) as caught:
                await client.get(url("/echo"))
            assert code_of(caught.value) == "tunnel_disconnected"
            fence = rig.key.mint_fence(Fence(TUNNEL, 2, sever=True), rig.clock.now().timestamp())
            assert await rig.dialer(edge_port).fence(fence) == []
            assert not await works(kept)
            await eventually(refused, 30)
            assert not await works(client)
            rig.use_token(2)
            await eventually(lambda: works(client), 30)


async def test_a_fence_that_control_did_not_sign_changes_nothing(tmp_path: Path) -> None:
    rig, stranger, upstream = Rig(tmp_path), Rig(tmp_path / "s"), Upstream()
    async with running_tunnel(rig, upstream.app) as (client, edge_port):
        fence = stranger.key.mint_fence(Fence(TUNNEL, 9, sever=True), rig.clock.now().timestamp())
        assert await rig.dialer(edge_port).fence(fence) == [f"127.0.0.1:{edge_port}"]
        assert await works(client)


async def test_wrong_tickets_are_refused_with_a_code(tmp_path: Path) -> None:
    rig, stranger, upstream = Rig(tmp_path), Rig(tmp_path / "stranger"), Upstream()
    now_s = rig.clock.now().timestamp()
    host = f"docs.{DOMAIN}"
    good = DialTicket(TUNNEL, DOMAIN, host, 1)
    elsewhere = DialTicket("tnl_other", DOMAIN, host, 1)
    tickets = {
        stranger.key.mint_dial_ticket(good, now_s): "bad_signature",
        rig.key.mint_dial_ticket(good, now_s - 60): "expired",
        rig.key.mint_dial_ticket(elsewhere, now_s): "tunnel_disconnected",
        "nonsense": "bad_signature",
    }
    async with running_tunnel(rig, upstream.app) as (_, edge_port):
        for ticket, code in tickets.items():

            async def mint(_host: str, _connection: str, ticket: str = ticket) -> str:
                return ticket

            rig.mint = mint  # type: ignore[method-assign,assignment]  # what control would have signed
            async with client_of(rig, edge_port) as client:
                with pytest.raises(httpx2.ConnectError) as caught:
                    await client.get(url("/echo"))
                assert code_of(caught.value) == code
    assert upstream.requests == []


async def test_t23_a_ticket_for_one_host_opens_no_other(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    mint = rig.mint

    async def other(_host: str, connection: str) -> str:
        return await mint(f"wiki.{DOMAIN}", connection)

    rig.mint = other  # type: ignore[method-assign,assignment]  # a caller that asks for more than it may
    async with running_tunnel(rig, upstream.app) as (client, _):
        with pytest.raises(httpx2.ConnectError):
            await client.get(url("/echo"))
    refused = [r for r in rig.audit("edge-audit.jsonl") if r["kind"] == "dial.refused"]
    assert "another host" in str(refused[0]["fields"])
    assert upstream.requests == []


@pytest.mark.parametrize("wrong", ["other ca", "no ca", "other names", "expired"])
@pytest.mark.rule("R313")
async def test_a_gateway_that_the_tunnel_does_not_vouch_for_is_refused(
    tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    now = SystemClock().now()
    trusted = [rig.ca.cert_pem.decode()]
    if wrong == "other ca":
        trusted = [make_ca("test tunnel", now).cert_pem.decode()]
    elif wrong == "no ca":
        trusted = []
    elif wrong == "other names":
        names = ["other.example", f"*.x.{DOMAIN}", DOMAIN]
        rig.use_certificate(make_server_certificate(rig.ca, names, now))
    else:
        past = now - timedelta(days=100)
        rig.use_certificate(make_server_certificate(rig.ca, [f"*.{DOMAIN}"], past))
    # Our own gateway would not start with such a certificate; an attacker's would.
    monkeypatch.setattr(gateway_app, "check_server_certificate", lambda *_: None)

    async def cas(_host: str) -> list[str]:
        return trusted

    rig.cas = cas  # type: ignore[method-assign]  # what was registered
    async with running_tunnel(rig, upstream.app) as (client, _):
        with pytest.raises(httpx2.ConnectError) as caught:
            await client.get(url("/echo"))
        code = "no_certificate" if wrong == "no ca" else "gateway_certificate"
        assert code_of(caught.value) == code
    assert upstream.requests == []
    opened = [r for r in rig.audit("edge-audit.jsonl") if r["kind"] == "dial.opened"]
    assert len(opened) == (0 if wrong == "no ca" else 1)


async def test_t23_hosts_that_are_no_hosts_do_not_leave_the_control_plane(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with client_of(rig, 1) as client:
        for host in ("10.0.0.1", "[::1]", f"docs.{DOMAIN}.", "localhost"):
            with pytest.raises(httpx2.ConnectError) as caught:
                await client.get(f"https://{host}/")
            assert code_of(caught.value) == "bad_host"
        with pytest.raises(httpx2.UnsupportedProtocol):
            await client.get(f"http://docs.{DOMAIN}/")


async def test_t35_no_record_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 7: a disk that refuses the intent refuses the call."""
    rig, upstream = Rig(tmp_path), Upstream()
    append = AppendLog.append_all

    def full(self: AppendLog, lines: Sequence[str]) -> None:
        if self.path.name == "gateway-audit.jsonl":
            raise OSError(28, "No space left on device")
        append(self, lines)

    async with running_tunnel(rig, upstream.app) as (client, _):
        with monkeypatch.context() as patch:
            patch.setattr(AppendLog, "append_all", full)
            answer = await client.post(url("/echo"), content=CALL, headers=JSON)
            assert answer.status_code == 503
            assert answer.json()["error"]["type"] == "audit_unavailable"
        assert upstream.requests == []
        assert (await client.post(url("/echo"), content=CALL, headers=JSON)).status_code == 200
    assert kinds(rig.audit("gateway-audit.jsonl")) == ["mcp.request", "mcp.response"]


async def test_t01_an_edge_whose_disk_is_full_costs_no_call_while_there_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    other = Rig(tmp_path / "other", key=rig.key)
    other.edge_ca = rig.edge_ca
    for name in ("edge.crt", "edge.key"):
        other.write(name, (rig.home / name).read_bytes())
    append_all = AppendLog.append_all

    def full(self: AppendLog, lines: Sequence[str]) -> None:
        if self.path == rig.home / "edge-audit.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        append_all(self, lines)

    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as first,
        running_edge(other) as second,
        running_gateway(rig.config([first, second], upstream_port), links=2),
        client_of(rig, first, second) as client,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(AppendLog, "append_all", full)
            assert (await client.get(url("/echo"))).status_code == 200
    assert "dial.opened" not in kinds(rig.audit("edge-audit.jsonl"))
    assert "dial.opened" in kinds(other.audit("edge-audit.jsonl"))


async def test_t15_a_gateway_whose_disk_is_full_leaves_calls_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    append_all, names = AppendLog.append_all, ("gateway-audit.jsonl", "gateway-2-audit.jsonl")
    full: list[str] = []

    def sometimes(self: AppendLog, lines: Sequence[str]) -> None:
        if self.path.name in full:
            raise OSError(errno.ENOSPC, "No space left on device")
        append_all(self, lines)

    def served(name: str) -> int:
        return kinds(rig.audit(name)).count("mcp.request")

    monkeypatch.setattr(AppendLog, "append_all", sometimes)
    async with running_upstream(upstream.app) as upstream_port, running_edge(rig) as port:
        config = rig.config([port], upstream_port)
        second = replace(config, audit_file=rig.home / names[1])
        async with (
            running_gateway(config),
            running_gateway(second),
            client_of(rig, port) as client,
        ):
            assert (await client.post(url("/echo"), content=CALL, headers=JSON)).status_code == 200
            full.extend(name for name in names if served(name))
            # The one that meets the full disk is told so; the next finds the other gateway.
            answer = await client.post(url("/echo"), content=CALL, headers=JSON)
            assert (answer.status_code, answer.headers["connection"]) == (503, "close")
            for _ in range(3):
                async with client_of(rig, port) as newcomer:
                    answer = await newcomer.post(url("/echo"), content=CALL, headers=JSON)
                    assert answer.status_code == 200
            assert sorted(map(served, names)) == [1, 3]
            full.clear()


async def test_a_gateway_drains_before_it_stops(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as edge_port,
        running_gateway(rig.config([edge_port], upstream_port)) as stop,
        client_of(rig, edge_port) as client,
        client.stream("GET", url("/events")) as answer,
    ):
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"data: 0\n\n"
        stop.request()
        for number in range(1, 5):
            upstream.step.set()
            assert await anext(chunks) == f"data: {number}\n\n".encode()
        upstream.step.set()
        assert [chunk async for chunk in chunks] == []
        async with client_of(rig, edge_port) as late:
            await eventually(lambda: fails(late), 30)
