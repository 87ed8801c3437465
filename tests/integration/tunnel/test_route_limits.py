"""What a route may be asked, through a whole tunnel, and what changes of it do to who is there."""

import sys
from pathlib import Path
from typing import Any

import anyio.lowlevel
import httpx2
import pytest
import yaml

from intramuros.control.mcp.transport import TunnelTransport
from intramuros.protocol.who import Kind, Who
from intramuros.tunnel.gateway_app import GatewaySettings
from tests.fakes.mcp_visitor import visit
from tests.integration.tunnel.rig import (
    DOMAIN,
    Rig,
    client_of,
    eventually,
    running_edge,
    running_gateway,
    running_upstream,
    url,
)
from tests.integration.tunnel.test_bound_sessions import denied, server
from tests.integration.tunnel.test_program_routes import JSON, SCRIPT, ask, start
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
ANN, BOB = (Who(Kind.USER, name) for name in ("user_ann", "user_bob"))


def write(rig: Rig, edge: int, routes: dict[str, Any]) -> GatewaySettings:
    """Write the gateway's file, whole and at once."""
    text = yaml.safe_dump(
        {
            "tunnel_domain": DOMAIN,
            "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
            "routes": routes,
            "upstream": {"allowed_ips": ["127.0.0.1"]},
            "edge": [f"127.0.0.1:{edge}"],
            "edge_ca_file": "edge-ca.crt",
            "token_file": "tunnel-token",
            "control_key_file": "control.pub",
            "audit_file": "gateway-audit.jsonl",
        }
    )
    rig.write("gateway.yaml.new", text.encode()).replace(rig.home / "gateway.yaml")
    return GatewaySettings(rig.home / "gateway.yaml")


async def reloaded(rig: Rig, count: int) -> None:
    async def recorded() -> bool:
        records = rig.audit("gateway-audit.jsonl")
        return sum(record["kind"] == "gateway.reloaded" for record in records) == count

    await eventually(recorded, 60)


async def test_a_servers_limits_hold_are_told_recorded_and_changed_while_it_runs(
    tmp_path: Path,
) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_upstream(upstream.app) as port, running_edge(rig) as edge:
        server = {"url": f"http://127.0.0.1:{port}", "max_concurrent": 1, "max_body_bytes": 2000}
        settings = write(rig, edge, {"docs": server})
        async with running_gateway(settings), client_of(rig, edge) as client:
            async with client.stream("GET", url("/endless")) as held:
                assert held.status_code == 200
                full = await client.get(url("/echo"))
                assert (full.status_code, full.headers["retry-after"]) == (429, "1")
                write(rig, edge, {"docs": {**server, "max_concurrent": 2}})
                await reloaded(rig, 1)
                # It goes on, and there is one more place.
                assert (await client.get(url("/echo"))).status_code == 200
                assert await anext(held.aiter_raw())
            large = await client.post(url("/echo"), content=b"x" * 2001)
            assert (large.status_code, large.json()["error"]["type"]) == (413, "over_limit")
            write(rig, edge, {"docs": {**server, "calls_per_minute": 2}})
            await reloaded(rig, 2)
            answers = [await client.get(url("/echo")) for _ in range(3)]
            assert [each.status_code for each in answers] == [200, 200, 429]
            assert 0 < int(answers[2].headers["retry-after"]) <= 60
            write(rig, edge, {"docs": server["url"]})
            await reloaded(rig, 3)
            assert (await client.get(url("/echo"))).status_code == 200
    reasons = [each["reason"] for each in denied(rig)]
    assert reasons == ["max_concurrent", "max_body_bytes", "calls_per_minute"]


async def test_a_client_of_the_protocol_reads_which_limit_it_is_over(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with (
        running_upstream(server().streamable_http_app()) as port,
        running_edge(rig) as edge,
        running_gateway(
            write(rig, edge, {"docs": {"url": f"http://127.0.0.1:{port}", "calls_per_minute": 8}})
        ),
        visit(url("/mcp"), way=lambda: TunnelTransport(rig.dialer(edge))) as found,
    ):
        results = [await found.call("secret") for _ in range(9)]
        assert not results[0].is_error
        assert results[-1].is_error
        assert "limit is reached (calls_per_minute: 8); try again in" in str(results[-1].content)
    assert {each["reason"] for each in denied(rig)} == {"calls_per_minute"}


async def opened(rig: Rig, edge: int, who: Who, count: int) -> list[httpx2.Response]:
    rig.who = (who,)
    async with client_of(rig, edge) as client:
        return [await start(client) for _ in range(count)]


async def test_no_person_has_all_sessions_of_a_program(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    program = {"command": [sys.executable, "-I", str(SCRIPT)], "sandbox": False, "max_sessions": 4}
    async with running_edge(rig) as edge:
        settings = write(rig, edge, {"tools": program})
        async with running_gateway(settings):
            ann = await opened(rig, edge, ANN, 4)
            assert [each.status_code for each in ann] == [200, 200, 200, 429]
            assert "too many of your sessions" in ann[3].json()["error"]["message"]
            assert int(ann[3].headers["retry-after"]) > 0
            # Another agent's session of hers is hers, too; others have their share.
            rig.session = "sesn_2"
            assert [each.status_code for each in await opened(rig, edge, ANN, 1)] == [429]
            bob = await opened(rig, edge, BOB, 2)
            assert [each.status_code for each in bob] == [200, 503]
            assert int(bob[1].headers["retry-after"]) > 0
            # Other limits end no session.
            fewer = {**program, "max_sessions": 6, "max_sessions_per_person": 1}
            write(rig, edge, {"tools": fewer})
            await reloaded(rig, 1)
            rig.session, rig.who = "sesn_1", (ANN,)
            async with client_of(rig, edge) as client:
                session = ann[0].headers["mcp-session-id"]
                assert (await ask(client, session, 9, "pid")).status_code == 200
                assert (await start(client)).status_code == 429
                # She gives hers back, one after the other.
                for each in ann[:3]:
                    headers = {**JSON, "mcp-session-id": each.headers["mcp-session-id"]}
                    gone = await client.delete(url("/mcp", "tools"), headers=headers)
                    assert gone.status_code == 200
                assert (await start(client)).status_code == 200
    await anyio.lowlevel.checkpoint()
