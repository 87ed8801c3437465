import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import httpx2
import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from intramuros.tunnel.edge_app import EdgeSettings, Listening, serve_edge
from tests.integration.tunnel.rig import (
    Rig,
    client_of,
    running_gateway,
    running_upstream,
    url,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio


async def test_health_is_alive_and_ready_once_a_gateway_is_there(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    ready, found = anyio.Event(), list[Listening]()

    def on_ready(listening: Listening) -> None:
        found.append(listening)
        ready.set()

    async with anyio.create_task_group() as group, httpx2.AsyncClient() as client:

        async def run() -> None:
            await serve_edge(replace(rig.edge_settings(), health_port=0), on_ready=on_ready)

        group.start_soon(run)
        await ready.wait()
        base = f"http://127.0.0.1:{found[0].health_port}"
        assert (await client.get(f"{base}/healthz")).status_code == 200
        assert (await client.get(f"{base}/readyz")).status_code == 503
        assert (await client.get(f"{base}/other")).status_code == 404
        async with running_gateway(rig.config([found[0].port], 1)):
            answer = await client.get(f"{base}/readyz")
            assert (answer.status_code, answer.json()["links"]) == (200, 1)
        group.cancel_scope.cancel()


async def test_t01_a_stop_lets_open_calls_finish(tmp_path: Path) -> None:
    rig, upstream, stop = Rig(tmp_path), Upstream(), Stop()
    ready, found, done = anyio.Event(), list[Listening](), anyio.Event()

    def on_ready(listening: Listening) -> None:
        found.append(listening)
        ready.set()

    async with running_upstream(upstream.app) as upstream_port, anyio.create_task_group() as group:

        async def run() -> None:
            settings = replace(rig.edge_settings(), drain_s=600)
            await serve_edge(settings, on_ready=on_ready, stop=stop)
            done.set()

        group.start_soon(run)
        await ready.wait()
        config = rig.config([found[0].port], upstream_port)
        async with running_gateway(config), client_of(rig, found[0].port) as client:
            assert (await client.get(url("/echo"))).status_code == 200
            async with client.stream("GET", url("/events")) as answer:
                chunks = answer.aiter_raw()
                assert await anext(chunks) == b"data: 0\n\n"
                stop.request()
                for number in range(1, 5):
                    upstream.step.set()
                    assert await anext(chunks) == f"data: {number}\n\n".encode()
                upstream.step.set()
                assert [chunk async for chunk in chunks] == []
            # The kept connection that waits for a next request does not hold the drain up.
            with anyio.fail_after(30):
                await done.wait()


def settings_with(change: Callable[[Rig, EdgeSettings], EdgeSettings], home: Path) -> EdgeSettings:
    rig = Rig(home)
    return change(rig, rig.edge_settings())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r, s: replace(s, cert_file=r.home / "gone.crt"), r"gone\.crt"),
        (lambda r, s: replace(s, key_file=r.home / "tls.key"), "KEY_VALUES_MISMATCH"),
        (lambda r, s: replace(s, control_key_file=r.home / "gone.pub"), r"gone\.pub"),
        (lambda r, s: replace(s, control_key_file=r.home / "edge.key"), "not the control plane"),
        (lambda r, s: replace(s, record_dir=r.home / "edge.key" / "x"), "record_dir"),
        (lambda r, s: replace(s, audit_file=r.home / "edge.key"), "does not end in an audit"),
    ],
)
async def test_each_wrong_setting_is_one_clear_line(
    tmp_path: Path, change: Callable[[Rig, EdgeSettings], EdgeSettings], text: str
) -> None:
    with pytest.raises(OperatorError, match=text) as caught:
        await serve_edge(settings_with(change, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", ["port", "health_port"])
async def test_a_taken_port_is_one_clear_line(tmp_path: Path, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Rig(tmp_path).edge_settings()
        settings = (
            replace(settings, port=port) if which == "port" else replace(settings, health_port=port)
        )
        with pytest.raises(OperatorError, match=str(port)):
            await serve_edge(settings)
