"""Edge and gateway as operators run them, killed and frozen: calls fail soon and come back."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
import yaml

from intramuros.kernel.config import clean_environment
from intramuros.kernel.errors import DomainError
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

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a command of ours; gives it and what it printed when it was ready."""
    command = [sys.executable, "-m", "intramuros.cli.main", *arguments]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().removeprefix("ready ").strip()
        finally:
            running.kill()


@contextmanager
def edge_process(rig: Rig, port: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    files = {
        "--cert-file": "edge.crt",
        "--key-file": "edge.key",
        "--control-key-file": "control.pub",
        "--audit-file": "edge-audit.jsonl",
    }
    arguments = [text for flag, name in files.items() for text in (flag, str(rig.home / name))]
    with process("edge", *arguments, "--port", str(port)) as (running, address):
        yield running, int(address.rpartition(":")[2])


@contextmanager
def gateway_process(
    rig: Rig, edge_port: int, upstream_port: int
) -> Iterator[subprocess.Popen[str]]:
    config = {
        "tunnel_domain": DOMAIN,
        "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
        "routes": {"docs": f"http://127.0.0.1:{upstream_port}"},
        "upstream": {"allowed_ips": ["127.0.0.1"]},
        "edge": [f"127.0.0.1:{edge_port}"],
        "edge_ca_file": "edge-ca.crt",
        "token_file": "tunnel-token",
        "control_key_file": "control.pub",
        "audit_file": "gateway-audit.jsonl",
    }
    path = rig.write("gateway.yaml", yaml.safe_dump(config).encode())
    with process("gateway", "--config", str(path)) as (running, _):
        yield running


async def works(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get(url("/echo"))).status_code == 200
    except httpx2.TransportError:
        return False


async def test_t02_a_killed_edge_fails_calls_soon_and_is_found_again(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_upstream(upstream.app) as upstream_port:
        with edge_process(rig, 0) as (edge, port):
            config = rig.config([port], upstream_port)
            async with running_gateway(config), client_of(rig, port) as client:
                async with client.stream("GET", url("/events")) as answer:
                    chunks = answer.aiter_raw()
                    assert await anext(chunks) == b"data: 0\n\n"
                    edge.kill()
                    with anyio.fail_after(1), pytest.raises(httpx2.TransportError):
                        await anext(chunks)
                assert not await works(client)
                edge.wait()
                with edge_process(rig, port):
                    await eventually(lambda: works(client), 2.5)
    kinds = [record["kind"] for record in rig.audit("gateway-audit.jsonl")]
    assert kinds.count("mcp.request") == kinds.count("mcp.response")


async def test_t03_a_killed_gateway_is_known_at_once(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_upstream(upstream.app) as upstream_port:
        with edge_process(rig, 0) as (_, port):
            async with client_of(rig, port) as client:
                with gateway_process(rig, port, upstream_port) as gateway:
                    assert await works(client)
                    gateway.kill()
                    with anyio.fail_after(1), pytest.raises(httpx2.TransportError):
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


async def test_t04_a_frozen_gateway_is_given_up_within_20_s_and_comes_back(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_upstream(upstream.app) as upstream_port:
        with edge_process(rig, 0) as (_, port), gateway_process(rig, port, upstream_port) as frozen:
            async with client_of(rig, port) as client:
                assert await works(client)
                os.kill(frozen.pid, signal.SIGSTOP)
                try:
                    with anyio.fail_after(21), pytest.raises(httpx2.TransportError):
                        await client.get(url("/echo"), timeout=30)
                finally:
                    os.kill(frozen.pid, signal.SIGCONT)
                await eventually(lambda: works(client), 5)
