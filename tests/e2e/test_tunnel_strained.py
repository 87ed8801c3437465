"""Edge and gateway as operators run them, without files, disk or readers, and while one stops.

Numbers are those of docs/reference/tunnel-tests.toml.
"""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import anyio
import httpx2
import pytest

from intramuros.kernel.errors import DomainError
from tests.e2e.tunnel_processes import edge_process, gateway_process
from tests.integration.tunnel.rig import (
    DOMAIN,
    Rig,
    client_of,
    eventually,
    running_upstream,
    url,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
MIB = 1024 * 1024
HOST = f"docs.{DOMAIN}"


async def works(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get(url("/echo"))).status_code == 200
    except httpx2.TransportError:
        return False


def rss_mib(*processes: subprocess.Popen[str]) -> float:
    pages = 0
    for process in processes:
        pages += int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / MIB


async def test_t01_an_edge_that_is_stopped_costs_no_call(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    told: list[object] = []

    async def call(client: httpx2.AsyncClient) -> None:
        try:
            answer = await client.post(url("/echo"), content=b"x")
            told.append(answer.status_code)
        except httpx2.TransportError as error:
            told.append(error)

    async with running_upstream(upstream.app) as upstream_port:
        with (
            edge_process(rig, 0) as first,
            edge_process(rig, 0, audit="second.jsonl") as second,
            gateway_process(rig, [first.port, second.port], upstream_port),
        ):
            async with client_of(rig, first.port, second.port) as client:
                await eventually(partial(works, client), 30)
                async with client.stream("GET", url("/resumable")) as answer:
                    async with anyio.create_task_group() as group:
                        for number in range(150):
                            group.start_soon(call, client)
                            if number == 50:
                                first.running.terminate()
                            await anyio.sleep(0.02)
                    # What was under way when the edge was told to stop comes to its end.
                    text = b"".join([chunk async for chunk in answer.aiter_raw()])
                assert text.count(b"data: ") == 60
                assert first.running.wait(10) == 0
    assert told == [200] * 150
    calls = [body for method, _, body in upstream.requests if method == "POST"]
    assert len(calls) == 150


async def test_t06_paused_downloads_hold_their_windows_and_nothing_more(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()

    async def p50(client: httpx2.AsyncClient) -> float:
        times = []
        for _ in range(40):
            started = time.perf_counter()
            await client.get(url("/echo"))
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    async with running_upstream(upstream.app) as upstream_port:
        with (
            edge_process(rig, 0) as edge,
            gateway_process(rig, edge.port, upstream_port) as gateway,
        ):
            async with client_of(rig, edge.port) as client, AsyncExitStack() as stack:
                await eventually(partial(works, client), 30)
                before_s, before = await p50(client), rss_mib(edge.running, gateway)
                for _ in range(8):
                    await stack.enter_async_context(client.stream("GET", url(f"/big/{200 * MIB}")))
                await anyio.sleep(0.5)
                after_s = await p50(client)
                grown = rss_mib(edge.running, gateway) - before
    # 1,600 MB wait to be read. Each reader has a window of 1 MiB, and buffers on both sides of it:
    # 25 to 29 MiB in all where 8 * 2 + 16 are promised. The rest is what allocators keep.
    assert grown <= 8 * 2 + 16 + 8
    # Others share the machine; the bound is wide, and a stream that waits exceeds it by far.
    assert after_s <= 3 * before_s + 0.1


async def test_t08_idle_streams_are_bounded_cheap_and_closed_at_once(tmp_path: Path) -> None:
    rig, upstream, count = Rig(tmp_path), Upstream(), 150
    async with running_upstream(upstream.app) as upstream_port:
        limit = ("--max-streams-per-tunnel", str(count))
        with (
            edge_process(rig, 0, *limit) as edge,
            gateway_process(rig, edge.port, upstream_port) as gateway,
        ):
            dialer = rig.dialer(edge.port)
            opened = [(await dialer.open(HOST))[0] for _ in range(10)]
            before = rss_mib(edge.running, gateway)
            opened += [(await dialer.open(HOST))[0] for _ in range(count - 10)]
            with pytest.raises(DomainError) as caught:
                await refused_dial(rig, edge.port)
            assert caught.value.hints.code == "too_many_streams"
            # Each has two TLS connections here, beside the stream itself.
            assert (rss_mib(edge.running, gateway) - before) * 1024 / count < 400
            for wire in opened:
                wire.abort()
            async with client_of(rig, edge.port) as client:
                await eventually(partial(works, client), 30)


async def refused_dial(rig: Rig, port: int) -> None:
    """Dial until the streams that were asked for are all counted."""
    for _ in range(20):
        wire, _ = await rig.dialer(port).open(HOST)
        wire.abort()
        await anyio.sleep(0.1)


@contextmanager
def small_disk(at: Path) -> Iterator[None]:
    """Mount a file system of 256 KiB."""
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(at)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("NO SMALL DISK: only root may mount one, and not in every container")
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="NO SMALL DISK: only root may mount one")
async def test_t15_a_full_disk_refuses_calls_and_a_freed_one_serves_them(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    disk = tmp_path / "disk"
    async with running_upstream(upstream.app) as upstream_port:
        with ExitStack() as stack:
            stack.enter_context(small_disk(disk))
            edge = stack.enter_context(edge_process(rig, 0))
            stack.enter_context(gateway_process(rig, edge.port, upstream_port, "disk/audit.jsonl"))
            async with client_of(rig, edge.port) as client:
                await eventually(partial(works, client), 30)
                with (
                    (disk / "filler").open("wb", buffering=0) as filler,
                    pytest.raises(OSError, match="No space"),
                ):
                    while True:
                        filler.write(b"x" * 512)
                # What is left of the last page takes some records.
                for _ in range(50):
                    answer = await client.post(url("/echo"), content=b"x")
                    if answer.status_code != 200:
                        break
                assert answer.status_code == 503
                assert answer.json()["error"]["type"] == "audit_unavailable"
                served = len(upstream.requests)
                for _ in range(5):
                    assert (await client.post(url("/echo"), content=b"x")).status_code == 503
                assert len(upstream.requests) == served
                (disk / "filler").unlink()
                assert (await client.post(url("/echo"), content=b"x")).status_code == 200
            shutil.copy(disk / "audit.jsonl", rig.home / "kept.jsonl")
    rig.audit("kept.jsonl")


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="NO PRLIMIT: install util-linux")
async def test_t15_an_edge_without_files_says_so_and_recovers(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_upstream(upstream.app) as upstream_port:
        with (
            edge_process(rig, 0, open_files=100) as edge,
            gateway_process(rig, edge.port, upstream_port),
        ):
            async with client_of(rig, edge.port) as client:
                await eventually(partial(works, client), 30)
            dialer, held, codes = rig.dialer(edge.port), [], []
            for _ in range(50):
                try:
                    held.append(await dialer.connect(HOST))
                except DomainError as error:
                    codes.append(error.hints.code)
                    break
            assert 20 < len(held) < 50
            assert codes == ["too_many_connections"]
            for wire in held:
                wire.abort()
            async with client_of(rig, edge.port) as client:
                await eventually(partial(works, client), 30)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="NO PRLIMIT: install util-linux")
async def test_t15_a_gateway_without_files_says_so_and_recovers(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with running_upstream(upstream.app) as upstream_port:
        with (
            edge_process(rig, 0) as edge,
            gateway_process(rig, edge.port, upstream_port, open_files=40),
        ):
            async with client_of(rig, edge.port) as client:
                await eventually(partial(works, client), 30)
                async with AsyncExitStack() as stack:
                    statuses = []
                    for _ in range(50):
                        answer = await stack.enter_async_context(
                            client.stream("GET", url("/endless"))
                        )
                        statuses.append(answer.status_code)
                        if answer.status_code != 200:
                            await answer.aread()
                            break
                    assert statuses[-1] == 502
                    assert answer.json()["error"]["type"] == "upstream_unreachable"
                    assert len(statuses) > 5
                await eventually(partial(works, client), 30)
