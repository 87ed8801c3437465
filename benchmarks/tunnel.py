"""What the tunnel costs: MCP calls, HTTP requests and bulk, direct and through edge and gateway.

    python -m benchmarks.tunnel [--rounds N] [--out FILE]

Five processes on loopback: an MCP server (official SDK) that serves plain HTTP and TLS, an edge, a
gateway with its audit file, and this client. Paths take turns within a round, so that load from
elsewhere hits all of them alike; ratios are what counts.
"""

import argparse
import json
import os
import platform
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from intramuros.control.mcp.dial import Edge, TunnelDialer, outer_context
from intramuros.control.mcp.transport import TunnelTransport
from intramuros.kernel.config import environment
from intramuros.kernel.telemetry import configure
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.tickets import CallTicket, DialTicket, SigningKey, TunnelToken
from intramuros.tunnel.certs import make_ca, make_self_signed_edge, make_server_certificate
from intramuros.tunnel.config import parse_config
from intramuros.tunnel.edge_app import EdgeSettings, serve_edge
from intramuros.tunnel.gateway_app import serve_gateway

ROOT = Path(__file__).parents[1]
DOMAIN = "bench.tunnel.intramuros.internal"
TUNNEL = "tnl_bench"
BULK_BYTES = 64 * 1024 * 1024
BODY = b"x" * 1024
Sample = Callable[[], Awaitable[None]]


# The processes


async def serve_upstream(home: Path) -> None:
    """Serve the same application over plain HTTP and over TLS."""
    server = MCPServer("bench")

    @server.tool()
    def echo(text: str) -> str:
        """Say it again."""
        return text

    async def http_echo(request: Request) -> Response:
        return Response(await request.body())

    async def bulk(_request: Request) -> Response:
        block = b"x" * 262144
        return StreamingResponse(iter([block] * (BULK_BYTES // len(block))))

    async def events(request: Request) -> Response:
        async def numbered() -> AsyncIterator[bytes]:
            yield b": hello\n\n"
            for _ in range(int(request.query_params["count"])):
                await anyio.sleep(float(request.query_params["gap"]))
                yield f"data: {time.time()}\n\n".encode()

        return StreamingResponse(numbered(), media_type="text/event-stream")

    app = server.streamable_http_app()
    app.router.routes += [Route("/echo", http_echo, methods=["POST"]), Route("/bulk", bulk)]
    app.router.routes.append(Route("/events", events))
    plain = uvicorn.Config(app, port=0, log_level="error", access_log=False)
    tls = uvicorn.Config(
        app,
        port=0,
        log_level="error",
        access_log=False,
        lifespan="off",
        ssl_certfile=home / "direct.crt",
        ssl_keyfile=home / "direct.key",
    )
    servers = [uvicorn.Server(plain), uvicorn.Server(tls)]
    async with anyio.create_task_group() as group:
        for each in servers:
            group.start_soon(each.serve)
            # uvicorn says that it is up in a flag only.
            while not each.started:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        print(*(each.servers[0].sockets[0].getsockname()[1] for each in servers), flush=True)


async def serve_bench_edge(home: Path) -> None:
    """Serve an edge on a free port."""
    settings = EdgeSettings(
        cert_file=home / "edge.crt",
        key_file=home / "edge.key",
        control_key_file=home / "control.pub",
        audit_file=home / "edge-audit.jsonl",
        port=0,
    )
    await serve_edge(settings, on_ready=lambda listening: print(listening.port, flush=True))


async def serve_bench_gateway(home: Path) -> None:
    """Serve the gateway whose configuration the parent wrote."""
    config = parse_config((home / "gateway.yaml").read_bytes(), home)
    await serve_gateway(config, on_ready=lambda _edge: print(0, flush=True))


ROLES = {
    "upstream": serve_upstream,
    "edge": serve_bench_edge,
    "gateway": serve_bench_gateway,
}


def start(role: str, home: Path, stack: ExitStack) -> list[int]:
    """Start a process; return the ports that it prints when it is ready."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.tunnel", "--role", role, "--home", str(home)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**environment(), "PYTHONPATH": path},
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    assert process.stdout is not None
    stack.enter_context(process.stdout)
    return [int(port) for port in process.stdout.readline().split()]


# The client


@dataclass(frozen=True)
class Paths:
    """The three ways to the same server."""

    clients: dict[str, httpx2.AsyncClient]
    urls: dict[str, str]


def prepare(home: Path) -> tuple[SigningKey, str, str]:
    """Write keys, certificates and the token; return control's key and two CA certificates."""
    now = SystemClock().now()
    key = SigningKey(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    edge_ca, edge = make_self_signed_edge(["127.0.0.1"], now)
    ca = make_ca("bench", now)
    for name, pair in {
        "edge": edge,
        "tls": make_server_certificate(ca, [f"*.{DOMAIN}"], now),
        "direct": make_server_certificate(ca, ["127.0.0.1"], now),
    }.items():
        (home / f"{name}.crt").write_bytes(pair.cert_pem)
        (home / f"{name}.key").write_bytes(pair.key_pem)
    (home / "edge-ca.crt").write_bytes(edge_ca)
    (home / "control.pub").write_bytes(key.public_pem())
    (home / "token").write_text(key.mint_tunnel_token(TunnelToken(TUNNEL, DOMAIN, 1)))
    return key, edge_ca.decode(), ca.cert_pem.decode()


def tunnel_transport(key: SigningKey, edge_ca: str, ca: str, port: int) -> TunnelTransport:
    """Return the transport that the control plane would use."""
    clock = SystemClock()

    async def mint(host: str, connection: str) -> str:
        ticket = DialTicket(TUNNEL, DOMAIN, host, 1, connection=connection)
        return key.mint_dial_ticket(ticket, clock.now().timestamp())

    async def vouch(host: str) -> str:
        return key.mint_call_ticket(CallTicket(TUNNEL, host), clock.now().timestamp())

    async def cas(_host: str) -> list[str]:
        return [ca]

    edges = [Edge("127.0.0.1", port, "127.0.0.1")]
    return TunnelTransport(TunnelDialer(edges, outer_context(edge_ca), mint, vouch, cas))


async def timed(sample: Sample) -> float:
    """Return how long a sample takes, in milliseconds."""
    started = time.perf_counter()
    await sample()
    return (time.perf_counter() - started) * 1000


def summary(samples: list[float]) -> dict[str, float]:
    """Return median and 95th percentile, in milliseconds."""
    ordered = sorted(samples)
    return {
        "p50_ms": round(statistics.median(ordered), 3),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)], 3),
    }


async def measure(samples: dict[str, Sample], rounds: int) -> dict[str, dict[str, float]]:
    """Time every path in turn, after a warm-up of a tenth."""
    for _ in range(max(1, rounds // 10)):
        for sample in samples.values():
            await sample()
    found: dict[str, list[float]] = {name: [] for name in samples}
    for _ in range(rounds):
        for name, sample in samples.items():
            found[name].append(await timed(sample))
    return {name: summary(times) for name, times in found.items()}


async def throughput(samples: dict[str, Sample], clients: int, each: int) -> dict[str, float]:
    """Return samples a second with several clients at once; the best of three rounds."""
    best: dict[str, float] = {}
    for _ in range(3):
        for name, sample in samples.items():

            async def work(sample: Sample = sample) -> None:
                for _ in range(each):
                    await sample()

            started = time.perf_counter()
            async with anyio.create_task_group() as group:
                for _ in range(clients):
                    group.start_soon(work)
            rate = clients * each / (time.perf_counter() - started)
            best[name] = round(max(best.get(name, 0.0), rate), 1)
    return best


async def run(home: Path, rounds: int) -> dict[str, object]:
    """Run all measurements."""
    key, edge_ca, ca = prepare(home)
    with ExitStack() as processes:
        plain_port, tls_port = start("upstream", home, processes)
        (edge_port,) = start("edge", home, processes)
        (home / "gateway.yaml").write_text(
            json.dumps(
                {
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
            )
        )
        start("gateway", home, processes)
        async with AsyncExitStack() as stack:
            trust = ssl.create_default_context(cadata=ca)
            limits = httpx2.Limits(max_connections=100, max_keepalive_connections=100)
            clients = {
                "direct": httpx2.AsyncClient(limits=limits),
                "direct_tls": httpx2.AsyncClient(verify=trust, limits=limits),
                "tunnel": httpx2.AsyncClient(
                    transport=tunnel_transport(key, edge_ca, ca, edge_port)
                ),
            }
            for client in clients.values():
                client.timeout = httpx2.Timeout(30)
                await stack.enter_async_context(client)
            urls = {
                "direct": f"http://127.0.0.1:{plain_port}",
                "direct_tls": f"https://127.0.0.1:{tls_port}",
                "tunnel": f"https://bench.{DOMAIN}",
            }
            return await measure_all(Paths(clients, urls), rounds, stack)


async def measure_all(paths: Paths, rounds: int, stack: AsyncExitStack) -> dict[str, object]:
    """Measure MCP calls, plain requests, new connections and bulk on every path."""
    calls: dict[str, Sample] = {}
    posts: dict[str, Sample] = {}
    bulks: dict[str, Sample] = {}
    for name, client in paths.clients.items():
        url = paths.urls[name]
        session = await stack.enter_async_context(
            Client(streamable_http_client(f"{url}/mcp", http_client=client))
        )

        async def call(session: Client = session) -> None:
            await session.call_tool("echo", {"text": "x" * 1024})

        async def post(client: httpx2.AsyncClient = client, url: str = url) -> None:
            answer = await client.post(f"{url}/echo", content=BODY)
            assert answer.content == BODY

        async def bulk(client: httpx2.AsyncClient = client, url: str = url) -> None:
            received = 0
            async with client.stream("GET", f"{url}/bulk") as answer:
                async for chunk in answer.aiter_raw():
                    received += len(chunk)
            assert received == BULK_BYTES

        calls[name], posts[name], bulks[name] = call, post, bulk
    result: dict[str, object] = {
        "mcp_call": await measure(calls, rounds),
        "mcp_calls_per_s_c32": await throughput(calls, 32, max(2, rounds // 16)),
        "post_1k": await measure(posts, rounds * 2),
        "posts_per_s_c32": await throughput(posts, 32, max(2, rounds // 8)),
    }
    bulk_ms = await measure(bulks, 5)
    result["bulk_mb_per_s"] = {
        name: round(BULK_BYTES / 1e6 / (times["p50_ms"] / 1000), 1)
        for name, times in bulk_ms.items()
    }
    return result


def report(result: dict[str, object]) -> str:
    """Return the result as a table, with the ratio to direct TLS."""
    lines = [f"{'':24}{'direct':>12}{'direct_tls':>12}{'tunnel':>12}{'ratio':>8}"]
    for name, values in result.items():
        assert isinstance(values, dict)
        rows = (
            {f"{name} {unit}": {p: v[unit] for p, v in values.items()} for unit in values["tunnel"]}
            if isinstance(values["tunnel"], dict)
            else {name: values}
        )
        for label, row in rows.items():
            cells = "".join(f"{row[path]:12.2f}" for path in ("direct", "direct_tls", "tunnel"))
            lines.append(f"{label:24}{cells}{row['tunnel'] / row['direct_tls']:8.2f}")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--out", "--output", type=Path, help="write the figures here as JSON")
    parser.add_argument("--role", choices=ROLES)
    parser.add_argument("--home", type=Path)
    arguments = parser.parse_args()
    configure(json=True, level="error")
    options = {"use_uvloop": True}
    if arguments.role:
        anyio.run(ROLES[arguments.role], arguments.home, backend_options=options)
        return
    with tempfile.TemporaryDirectory() as home:
        sync_ms = fdatasync_ms(Path(home))
        result = anyio.run(run, Path(home), arguments.rounds, backend_options=options)
    print(f"one fdatasync here takes {sync_ms} ms (median); the tunnel pays one per request")
    print(report(result))
    if arguments.out:
        facts = {
            "at": SystemClock().now().isoformat(timespec="seconds"),
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
            "python": platform.python_version(),
            "rounds": arguments.rounds,
            "fdatasync_ms": sync_ms,
        }
        arguments.out.write_text(json.dumps({**facts, **result}, indent=2) + "\n")


def fdatasync_ms(home: Path) -> float:
    """Return the median of syncing a small append, in milliseconds."""
    times = []
    with (home / "sync").open("ab", buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 500)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    return round(statistics.median(times), 3)


if __name__ == "__main__":
    main()
