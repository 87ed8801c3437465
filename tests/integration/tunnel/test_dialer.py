"""Ways out of a company: through its proxy, and through a box that opens TLS."""

import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from structlog.testing import capture_logs

from intramuros.tunnel.certs import make_self_signed_edge
from intramuros.tunnel.dialer import Transport
from tests.integration.tunnel.middlebox import ConnectProxy, InspectingBox, serving
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
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio
BASIC = "Basic " + base64.b64encode(b"ada:s3cret").decode()


@asynccontextmanager
async def reached(
    rig: Rig, upstream: Upstream, **ways: object
) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a tunnel whose gateway goes this way; gives a client that goes through it."""
    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as edge_port,
        running_gateway(replace(rig.config([edge_port], upstream_port), **ways)),
        client_of(rig, edge_port) as client,
    ):
        yield client


async def check(client: httpx2.AsyncClient) -> None:
    """Send much and get much, several times at once."""
    body = bytes(range(256)) * 4096
    digest = hashlib.sha256(body).hexdigest()

    async def once() -> None:
        answer = await client.post(url("/echo"), content=body)
        assert answer.json()["sha256"] == digest
        assert len((await client.get(url("/big/3000000"))).content) == 3_000_000

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(once)


@pytest.mark.parametrize("transport", [Transport.AUTO, Transport.WEBSOCKET])
async def test_t39_a_proxy_that_wants_credentials_is_passed(
    tmp_path: Path, transport: Transport
) -> None:
    rig, upstream, proxy = Rig(tmp_path), Upstream(), ConnectProxy(BASIC)
    (tmp_path / "known").write_text("ada:s3cret\n")
    async with serving(proxy.handle) as port:
        ways = {
            "edge_proxy": f"http://127.0.0.1:{port}",
            "edge_proxy_credentials": tmp_path / "known",
            "edge_transport": transport,
        }
        async with reached(rig, upstream, **ways) as client:
            await check(client)
    assert len(proxy.asked) == 1
    assert proxy.asked[0].startswith("CONNECT 127.0.0.1:")


async def test_t39_the_environment_names_a_proxy_and_what_is_exempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, upstream, proxy = Rig(tmp_path), Upstream(), ConnectProxy(BASIC)
    async with serving(proxy.handle) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://ada:s3cret@127.0.0.1:{port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with reached(rig, upstream) as client:
            await check(client)
        assert len(proxy.asked) == 1
        async with reached(Rig(tmp_path / "a"), upstream, edge_proxy="none") as client:
            await check(client)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with reached(Rig(tmp_path / "b"), upstream) as client:
            await check(client)
    assert len(proxy.asked) == 1


@pytest.mark.parametrize(
    ("proxy", "code"),
    [
        (ConnectProxy(BASIC), "edge_proxy_credentials"),
        (ConnectProxy(None, 403), "edge_proxy_refused"),
    ],
)
async def test_t39_a_proxy_that_refuses_is_named(
    tmp_path: Path, proxy: ConnectProxy, code: str
) -> None:
    rig = Rig(tmp_path)
    async with serving(proxy.handle) as port:
        config = replace(rig.config([1], 1), edge_proxy=f"http://127.0.0.1:{port}")
        with capture_logs() as logs:
            async with running_gateway(config, links=0):
                await eventually(partial(dialled, proxy, 2), 30)
    said = [entry for entry in logs if entry["event"] == "link_failed"]
    assert [entry["code"] for entry in said] == [code]
    assert f"127.0.0.1:{port}" in said[0]["reason"]


async def dialled(proxy: ConnectProxy, times: int) -> bool:
    return len(proxy.asked) >= times


async def failed(logs: Sequence[MutableMapping[str, Any]]) -> bool:
    return any(entry["event"] == "link_failed" for entry in logs)


@asynccontextmanager
async def inspected(rig: Rig, edge_port: int) -> AsyncIterator[tuple[InspectingBox, int]]:
    """Put a box that opens TLS before an edge; the gateway trusts it too."""
    ca, pair = make_self_signed_edge(["127.0.0.1"], rig.clock.now())
    (rig.home / "box.pem").write_bytes(pair.cert_pem + pair.key_pem)
    rig.write("edge-ca.crt", rig.edge_ca + ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(rig.home / "box.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    trust = ssl.create_default_context(cadata=rig.edge_ca.decode())
    box = InspectingBox(edge_port, context, trust)
    async with serving(box.handle) as port:
        yield box, port


async def test_t29_t39_a_box_that_opens_tls_is_passed_by_websocket_and_sees_no_payload(
    tmp_path: Path,
) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as edge_port,
        inspected(rig, edge_port) as (box, box_port),
    ):
        with capture_logs() as logs:
            async with (
                running_gateway(rig.config([box_port], upstream_port)),
                client_of(rig, edge_port) as client,
            ):
                await check(client)
                answer = await client.get(url("/echo?planted=v4lu4ble"))
                assert answer.json()["query"] == "planted=v4lu4ble"
    assert [head.split(b"\r\n")[0] for head in box.seen] == [b"GET /link HTTP/1.1"]
    assert "link_in_websocket" in [entry["event"] for entry in logs]
    assert b"v4lu4ble" not in rig.recorded()
    assert DOMAIN.encode() not in b"".join(box.seen)


async def test_direct_is_direct(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with running_edge(rig) as edge_port, inspected(rig, edge_port) as (box, box_port):
        config = replace(rig.config([box_port], 1), edge_transport=Transport.DIRECT)
        with capture_logs() as logs:
            async with running_gateway(config, links=0):
                await eventually(partial(failed, logs), 30)
    assert [entry["code"] for entry in logs if entry["event"] == "link_failed"] == ["edge_reset"]
    assert box.seen == []
