"""The long forms of the tunnel's tests: hours of calls, of silence, and thousands of idle streams.

    python -m benchmarks.soak calls [--minutes N] [--rate N]   # N calls a second; memory is flat
    python -m benchmarks.soak events [--minutes N] [--gap S]   # a stream with an event every S
    python -m benchmarks.soak idle [--streams N]               # memory of streams at rest

Edge, gateway and MCP server are processes of their own, as in ``benchmarks.tunnel``. Each prints
what it saw and ends with status 1 if that breaks its bound.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2

from benchmarks.tunnel import BODY, DOMAIN, prepare, start, tunnel_transport
from intramuros.kernel.telemetry import configure

# Megabytes that edge and gateway together may grow by over a soak, after its first tenth.
MAX_GROWTH_MB = 16
# An event must arrive this soon after it was sent.
MAX_LATE_S = 1.0


@dataclass(frozen=True)
class Standing:
    """A running tunnel."""

    home: Path
    client: httpx2.AsyncClient
    pids: tuple[int, ...]

    def rss_kb(self) -> int:
        """Return what edge and gateway hold together."""
        pages = 0
        for pid in self.pids:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") // 1024


async def stand(home: Path, processes: ExitStack, stack: AsyncExitStack) -> Standing:
    """Start everything; the processes end with the stack."""
    key, edge_ca, ca = prepare(home)
    plain_port, _ = start("upstream", home, processes)
    (edge_port,) = start("edge", home, processes)
    config = {
        "tunnel_domain": DOMAIN,
        "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
        "routes": {"bench": f"http://127.0.0.1:{plain_port}"},
        "upstream": {"allowed_ips": ["127.0.0.1"]},
        "edge": [f"127.0.0.1:{edge_port}"],
        "edge_ca_file": "edge-ca.crt",
        "token_file": "token",
        "control_key_file": "control.pub",
        "audit_file": "gateway-audit.jsonl",
    }
    (home / "gateway.yaml").write_text(json.dumps(config))
    start("gateway", home, processes)
    pids = tuple(pid for role in ("edge", "gateway") for pid in children(role))
    transport = tunnel_transport(key, edge_ca, ca, edge_port)
    client = await stack.enter_async_context(httpx2.AsyncClient(transport=transport, timeout=30))
    return Standing(home, client, pids)


def children(role: str) -> list[int]:
    """Return our own child processes of a role."""
    found = []
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if role.encode() in words:
            found.append(int(pid))
    return found


async def calls(tunnel: Standing, minutes: float, rate: float) -> bool:
    """Call at a rate; nothing may fail and memory may not grow."""
    url = f"https://bench.{DOMAIN}/echo"
    ends = time.monotonic() + minutes * 60
    warm = time.monotonic() + minutes * 6
    done = failed = base = 0
    async with anyio.create_task_group() as group:

        async def one() -> None:
            nonlocal done, failed
            try:
                answer = await tunnel.client.post(url, content=BODY)
                failed += answer.status_code != 200
            except httpx2.TransportError:
                failed += 1
            done += 1

        while time.monotonic() < ends:
            group.start_soon(one)
            await anyio.sleep(1 / rate)
            if not base and time.monotonic() >= warm:
                base = tunnel.rss_kb()
    grown_mb = (tunnel.rss_kb() - base) / 1024
    print(f"{done} calls, {failed} failed; edge and gateway grew by {grown_mb:.1f} MB", flush=True)
    return not failed and grown_mb <= MAX_GROWTH_MB


async def events(tunnel: Standing, minutes: float, gap_s: float) -> bool:
    """Listen to a stream of events that carry the time at which they were sent."""
    count = max(2, int(minutes * 60 / gap_s))
    url = f"https://bench.{DOMAIN}/events?count={count}&gap={gap_s}"
    late: list[float] = []
    async with tunnel.client.stream("GET", url, timeout=gap_s * 3 + 30) as answer:
        async for line in answer.aiter_lines():
            now_s = time.time()
            late.extend(now_s - float(sent) for sent in line.split("data: ")[1:])
    latest_ms = max(late) * 1000
    print(f"{len(late)} of {count} events, at most {latest_ms:.0f} ms after sending", flush=True)
    return len(late) == count and max(late) < MAX_LATE_S


async def idle(tunnel: Standing, streams: int) -> bool:
    """Open streams that do nothing, and say what each costs edge and gateway together."""
    url = f"https://bench.{DOMAIN}/events?count=1&gap=3600"
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(tunnel.client.stream("GET", url, timeout=None))
        assert first.status_code == 200
        before, started = tunnel.rss_kb(), time.perf_counter()
        for _ in range(streams):
            await stack.enter_async_context(tunnel.client.stream("GET", url, timeout=None))
        took = time.perf_counter() - started
        each_kb = (tunnel.rss_kb() - before) / streams
        print(
            f"{streams} whole connections in {took:.1f} s, {each_kb:.1f} kB each (both TLS's)",
            flush=True,
        )
    return True


def main() -> None:
    """Run one soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("kind", choices=("calls", "events", "idle"))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--gap", type=float, default=20)
    parser.add_argument("--streams", type=int, default=90)
    arguments = parser.parse_args()
    configure(json=True, level="error")

    async def run() -> bool:
        with tempfile.TemporaryDirectory() as home, ExitStack() as processes:
            async with AsyncExitStack() as stack:
                tunnel = await stand(Path(home), processes, stack)
                if arguments.kind == "calls":
                    return await calls(tunnel, arguments.minutes, arguments.rate)
                if arguments.kind == "events":
                    return await events(tunnel, arguments.minutes, arguments.gap)
                return await idle(tunnel, arguments.streams)

    sys.exit(0 if anyio.run(run, backend_options={"use_uvloop": True}) else 1)


if __name__ == "__main__":
    main()
