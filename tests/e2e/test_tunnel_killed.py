"""Edge and gateway as operators run them, killed and frozen: calls fail soon and come back."""

import os
import signal
from functools import partial
from pathlib import Path

import anyio
import httpx2
import pytest

from intramuros.kernel.errors import DomainError
from intramuros.tunnel.link import DEFAULT_KEEPALIVE
from tests.e2e.tunnel_processes import edge_process, gateway_process
from tests.integration.tunnel.rig import (
    Rig,
    client_of,
    eventually,
    running_gateway,
    running_upstream,
    url,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
# Far less than the silence after which a peer is given up, and more than a busy machine needs.
SOON_S = 10


async def works(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get(url("/echo"))).status_code == 200
    except httpx2.TransportError:
        return False


async def test_t02_a_killed_edge_fails_calls_soon_and_is_found_again(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_upstream(upstream.app) as upstream_port:
        with edge_process(rig, 0) as edge:
            port = edge.port
            config = rig.config([port], upstream_port)
            async with running_gateway(config), client_of(rig, port) as client:
                async with client.stream("GET", url("/events")) as answer:
                    chunks = answer.aiter_raw()
                    assert await anext(chunks) == b"data: 0\n\n"
                    edge.running.kill()
                    with anyio.fail_after(SOON_S), pytest.raises(httpx2.TransportError):
                        await anext(chunks)
                assert not await works(client)
                edge.running.wait()
                with edge_process(rig, port):
                    await eventually(partial(works, client), 30)
    kinds = [record["kind"] for record in rig.audit("gateway-audit.jsonl")]
    assert kinds.count("mcp.request") == kinds.count("mcp.response")


async def test_t03_a_killed_gateway_is_known_at_once(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_upstream(upstream.app) as upstream_port:
        with edge_process(rig, 0) as edge:
            port = edge.port
            async with client_of(rig, port) as client:
                with gateway_process(rig, port, upstream_port) as gateway:
                    assert await works(client)
                    gateway.kill()
                    with anyio.fail_after(SOON_S), pytest.raises(httpx2.TransportError):
                        while True:
                            await client.get(url("/echo"))
                    with pytest.raises(httpx2.ConnectError) as caught:
                        await client.get(url("/echo"))
                    cause = caught.value.__cause__
                    assert isinstance(cause, DomainError)
                    assert cause.hints.code == "tunnel_disconnected"
                with gateway_process(rig, port, upstream_port):
                    assert await works(client)
    rig.audit("gateway-audit.jsonl")


async def test_t04_a_frozen_gateway_is_given_up_within_20_s_and_comes_back_once(
    tmp_path: Path,
) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    assert DEFAULT_KEEPALIVE.every_s + DEFAULT_KEEPALIVE.dead_s <= 20
    async with running_upstream(upstream.app) as upstream_port, httpx2.AsyncClient() as asking:
        with (
            edge_process(rig, 0, "--health-port", "0") as edge,
            gateway_process(rig, edge.port, upstream_port) as frozen,
        ):

            async def links() -> int:
                ready = await asking.get(f"http://127.0.0.1:{edge.health_port}/readyz")
                return int(ready.json()["links"])

            async def has(count: int) -> bool:
                return await links() == count

            async with client_of(rig, edge.port) as client:
                assert await works(client)
                os.kill(frozen.pid, signal.SIGSTOP)
                try:
                    with anyio.fail_after(30), pytest.raises(httpx2.TransportError):
                        await client.get(url("/echo"), timeout=60)
                    assert await links() == 0
                    # Another gateway takes over while the first one sleeps.
                    with gateway_process(rig, edge.port, upstream_port, "second.jsonl"):
                        assert await works(client)
                        os.kill(frozen.pid, signal.SIGCONT)
                        await eventually(partial(has, 2), 30)
                        # The link that was given up is no second registration of the first.
                        await anyio.sleep(0.5)
                        assert await links() == 2
                        assert await works(client)
                finally:
                    os.kill(frozen.pid, signal.SIGCONT)
