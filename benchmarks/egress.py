"""What the way out of a sandbox costs: HTTPS by name through capture and proxy, and without.

``python -m benchmarks.egress [--connections N] [--requests N] [--rounds N] [--out FILE]``

One HTTPS host on loopback, a process of its own; one client, a program of its own, which runs on
this machine directly and inside a bubblewrap sandbox, in turns, so that load from elsewhere hits
both alike: ratios and differences are what counts. A new connection is name, TCP, TLS, a request
and its answer; ``new`` asks what is safe to ask twice, so that the worker may use a connection to
the host that rests, and ``alone`` asks what is not, so that it makes one each time. Inside, the
worker's part is all there: name server, interception, policy, audit records on disk. ``attach`` is
what a sandbox waits for its network when it is made.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import trustme

from benchmarks.meter import summary_ms
from intramuros.execution.egress.policy import OwnRules, parse_hosts
from intramuros.execution.egress.rules import OPERATORS_ALONE
from intramuros.execution.egress.station import Ground, Station
from intramuros.execution.egress.upstream import Dialler, client_context
from intramuros.execution.record import Record
from intramuros.execution.sandbox.base import Sandbox, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.kernel.timing import SystemClock, rfc3339

NAME: Final = "api.test"
_PYTHON: Final = "/usr/bin/python3"
_HOST: Final = """
import asyncio, ssl, sys
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 512\\r\\n\\r\\n" + b"x" * 512)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
_CLIENT: Final = """
import json, socket, ssl, sys, time
name, address, port, trust, connections, requests = sys.argv[1:]
context = ssl.create_default_context(cafile=trust)
head = f"/ HTTP/1.1\\r\\nHost: {name}:{port}\\r\\n".encode()
ask, change = b"GET " + head + b"\\r\\n", b"POST " + head + b"Content-Length: 0\\r\\n\\r\\n"
def connect():
    plain = socket.create_connection((address, int(port)), 10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=name)
def request(stream, ask=ask):
    stream.sendall(ask)
    data = b""
    while b"\\r\\n\\r\\n" not in data or len(data.split(b"\\r\\n\\r\\n", 1)[1]) < 512:
        more = stream.recv(65536)
        if not more: raise SystemExit("the connection was cut")
        data += more
fresh, alone, kept = [], [], []
for _ in range(int(connections)):
    for said, into in ((ask, fresh), (change, alone)):
        began = time.perf_counter_ns()
        with connect() as stream:
            request(stream, said)
            into.append(time.perf_counter_ns() - began)
with connect() as stream:
    request(stream)
    for _ in range(int(requests)):
        began = time.perf_counter_ns()
        request(stream)
        kept.append(time.perf_counter_ns() - began)
print(json.dumps({"new": fresh, "alone": alone, "kept": kept}))
"""


@dataclass(frozen=True)
class Site:
    """The host, and what it is verified with."""

    port: int
    roots: Path


@contextmanager
def host(folder: Path) -> Iterator[Site]:
    """Run the HTTPS host in a process of its own."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "roots.pem"))
    authority.issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(str(folder / "pair"))
    argv = [sys.executable, "-c", _HOST, str(folder / "pair")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Site(int(process.stdout.readline()), folder / "roots.pem")
        finally:
            process.terminate()


@asynccontextmanager
async def station(site: Site, folder: Path) -> AsyncIterator[tuple[Station, BubblewrapProvider]]:
    """Open the way out as a worker does, and what makes its sandboxes."""
    hosts = parse_hosts([NAME])
    own = OwnRules(allow=hosts, internal=hosts, ports=frozenset({site.port}))

    async def resolver(name: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    clock = SystemClock()
    async with AsyncExitStack() as stack:
        record = Record(folder / "audit.jsonl", clock)
        stack.callback(record.close)
        ground = Ground(folder / "egress", own, Dialler(client_context(site.roots), resolver), 4)
        opened = await stack.enter_async_context(Station.opened(ground, record, clock))
        provider = BubblewrapProvider(folder / "state")
        await provider.start()
        stack.push_async_callback(provider.aclose)
        yield opened, provider


async def attached(
    opened: Station, provider: BubblewrapProvider, number: int
) -> tuple[Sandbox, dict[str, int]]:
    """Make a sandbox and give it its network; returns nanoseconds of both."""
    passage = opened.passage(f"egress-{os.getpid()}-{number}", OPERATORS_ALONE)
    spec = SandboxSpec(egress="names", trust=passage.trust)
    began = time.perf_counter_ns()
    sandbox = await provider.create(spec, f"egress-{os.getpid()}-{number}")
    created = time.perf_counter_ns()
    await opened.captures.attach(sandbox, passage)
    return sandbox, {"create": created - began, "attach": time.perf_counter_ns() - created}


async def direct(site: Site, counts: list[str]) -> dict[str, list[int]]:
    """Run the client on this machine."""
    argv = [_PYTHON, "-c", _CLIENT, NAME, "127.0.0.1", str(site.port), str(site.roots), *counts]
    found: dict[str, list[int]] = json.loads((await anyio.run_process(argv)).stdout)
    return found


async def inside(sandbox: Sandbox, site: Site, counts: list[str]) -> dict[str, list[int]]:
    """Run the client in a sandbox."""
    argv = [_PYTHON, "-c", _CLIENT, NAME, NAME, str(site.port), "/etc/ca-bundle.pem", *counts]
    done = await sandbox.exec(argv, timeout_s=120.0)
    if done.exit_code:
        raise RuntimeError(done.stderr.decode())
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Take turns and return the figures in milliseconds."""
    sides: dict[str, dict[str, list[int]]] = {
        name: {"new": [], "alone": [], "kept": []} for name in ("direct", "sandbox")
    }
    starts: dict[str, list[int]] = {"create": [], "attach": []}
    counts = [str(options.connections), str(options.requests)]
    with host(folder) as site:
        async with station(site, folder) as (opened, provider):
            for number in range(options.rounds + 1):
                sandbox, took = await attached(opened, provider, number)
                found = {
                    "direct": await direct(site, counts),
                    "sandbox": await inside(sandbox, site, counts),
                }
                await opened.captures.detach(f"egress-{os.getpid()}-{number}")
                await sandbox.destroy()
                if number == 0:
                    continue  # warms both up
                for name, kinds in found.items():
                    for kind, samples in kinds.items():
                        sides[name][kind] += samples
                for kind, taken in took.items():
                    starts[kind].append(taken)
    return figures(sides, starts)


def figures(sides: dict[str, dict[str, list[int]]], starts: dict[str, list[int]]) -> dict[str, Any]:
    """Return medians, what the way out adds to them, and the ratios."""
    told: dict[str, Any] = {kind: summary_ms(samples) for kind, samples in starts.items()}
    for kind in ("new", "alone", "kept"):
        own, ours = (summary_ms(sides[name][kind]) for name in ("direct", "sandbox"))
        told[kind] = {
            "direct": own,
            "sandbox": ours,
            "added_p50": round(ours["p50"] - own["p50"], 2),
            "ratio_p50": round(ours["p50"] / own["p50"], 2),
        }
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        told = anyio.run(measure, options, Path(scratch), backend_options={"use_uvloop": True})
    told["python"] = platform.python_version()
    print(json.dumps(told, indent=2))
    if options.out:
        options.out.write_text(json.dumps({"taken": rfc3339(SystemClock().now()), **told}))


if __name__ == "__main__":
    main()
