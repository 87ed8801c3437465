"""What one tunnel may take of an edge, and what edge and gateway tell of themselves."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import httpx2
import pytest

from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.tunnel.config import parse_config
from intramuros.tunnel.edge_app import Listening, serve_edge
from tests.integration.tunnel.rig import (
    DOMAIN,
    Rig,
    client_of,
    eventually,
    running_gateway,
    running_upstream,
    url,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio
HOST = f"docs.{DOMAIN}"
MIB = 1024 * 1024


@asynccontextmanager
async def limited(rig: Rig, **limits: int) -> AsyncIterator[Listening]:
    """Run an edge with limits of its own."""
    found: list[Listening] = []
    ready = anyio.Event()

    def on_ready(listening: Listening) -> None:
        found.append(listening)
        ready.set()

    async with anyio.create_task_group() as group:

        async def run() -> None:
            settings = replace(rig.edge_settings(), health_port=0, record_dir=None, **limits)
            await serve_edge(settings, on_ready=on_ready)

        group.start_soon(run)
        with anyio.fail_after(30):
            await ready.wait()
        yield found[0]
        group.cancel_scope.cancel()


async def figures(port: int | None) -> dict[str, float]:
    async with httpx2.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_t08_a_tunnels_dials_count_from_their_first_moment(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with (
        running_upstream(upstream.app) as upstream_port,
        limited(rig, max_streams_per_tunnel=3) as edge,
        running_gateway(rig.config([edge.port], upstream_port)),
    ):
        dialer = rig.dialer(edge.port)
        # They say no ClientHello yet, and hold their places all the same.
        held = [await dialer.connect(HOST) for _ in range(3)]
        with pytest.raises(DomainError) as caught:
            await dialer.connect(HOST)
        assert caught.value.hints.code == "too_many_streams"
        for wire in held:
            wire.abort()

        async def free() -> bool:
            async with client_of(rig, edge.port) as client:
                try:
                    return (await client.get(url("/echo"))).status_code == 200
                except httpx2.ConnectError:
                    return False

        await eventually(free, 30)
        told = await figures(edge.health_port)
        assert told['intramuros_edge_dials_total{outcome="too_many_streams"}'] >= 1
    refused = [r for r in rig.audit("edge-audit.jsonl") if r["kind"] == "dial.refused"]
    assert "too_many_streams" in str(refused[0]["fields"])


async def test_a_tunnel_over_its_rate_is_slowed_and_nothing_is_lost(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with (
        running_upstream(upstream.app) as upstream_port,
        limited(rig, max_bytes_per_s_per_tunnel=2 * MIB) as edge,
        running_gateway(rig.config([edge.port], upstream_port)),
        client_of(rig, edge.port) as client,
    ):
        started_s = anyio.current_time()
        assert len((await client.get(url(f"/big/{3 * MIB}"))).content) == 3 * MIB
        took_s = anyio.current_time() - started_s
        told = await figures(edge.health_port)
    # Three at two a second, of which a quarter of a second's worth passes at once.
    assert took_s > 1.1
    assert told['intramuros_edge_relayed_bytes_total{direction="down"}'] > 3 * MIB
    assert upstream.requests == []


async def test_edge_and_gateway_tell_what_they_did_without_a_name(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with running_upstream(upstream.app) as upstream_port, limited(rig) as edge:
        config = replace(rig.config([edge.port], upstream_port), health_port=port)
        async with running_gateway(config), client_of(rig, edge.port) as client:
            for path, label in (("/echo", "docs"), ("/echo", "wiki"), ("/echo", "gone")):
                await client.get(url(path, label))
            edges, gateways = await figures(edge.health_port), await figures(port)
            async with httpx2.AsyncClient() as asking:
                assert (await asking.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
                text = (await asking.get(f"http://127.0.0.1:{port}/metrics")).text
    assert edges['intramuros_edge_links_total{outcome="opened"}'] == 1
    assert edges['intramuros_edge_dials_total{outcome="opened"}'] == 3
    assert edges["intramuros_edge_links_now"] == 1
    assert edges['intramuros_edge_relayed_bytes_total{direction="up"}'] > 500
    assert gateways['intramuros_gateway_requests_total{ended="complete"}'] == 1
    assert gateways['intramuros_gateway_requests_total{ended="upstream_unreachable"}'] == 1
    assert gateways['intramuros_gateway_refused_total{reason="no_route"}'] == 1
    assert gateways['intramuros_gateway_request_seconds_total{ended="complete"}'] > 0
    assert gateways["intramuros_gateway_links_now"] == 1
    for name in (DOMAIN, "tnl_test", "sesn_1", "docs"):
        assert name not in text


def test_a_health_port_is_a_port(tmp_path: Path) -> None:
    Rig(tmp_path)
    base = """
        tunnel_domain: t.example
        tls: {cert_file: a, key_file: b}
        routes: {docs: "http://10.0.0.1:80"}
        edge: ["e:1"]
        token_file: t
        control_key_file: k
        audit_file: r
        health_port: %s
    """
    assert parse_config((base % 9090).encode(), tmp_path).health_port == 9090
    for wrong in ("-1", "70000", "yes", '"9090"'):
        with pytest.raises(OperatorError, match="health_port"):
            parse_config((base % wrong).encode(), tmp_path)
