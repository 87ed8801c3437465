"""A whole tunnel on loopback: control's key, an edge, a gateway, an HTTP upstream, a client."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CoroutineType
from typing import Any

import anyio
import anyio.abc
import httpx2
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.types import ASGIApp

from intramuros.control.mcp.dial import Edge, TunnelDialer, outer_context
from intramuros.control.mcp.transport import TunnelTransport
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.audit import verify
from intramuros.protocol.tickets import CallTicket, DialTicket, SigningKey, TunnelToken
from intramuros.protocol.who import Who
from intramuros.tunnel.certs import KeyPair, make_ca, make_self_signed_edge, make_server_certificate
from intramuros.tunnel.config import GatewayConfig, parse_config
from intramuros.tunnel.edge_app import EdgeSettings, Listening, serve_edge
from intramuros.tunnel.gateway_app import GatewaySettings, serve_gateway

DOMAIN = "k3v9.tunnel.intramuros.internal"
TUNNEL = "tnl_test"


def signing_key() -> SigningKey:
    return SigningKey(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@dataclass
class Rig:
    """Files and keys of one tunnel; ``edge`` and ``gateway`` run it."""

    home: Path
    key: SigningKey = field(default_factory=signing_key)
    version: int = 1
    clock: SystemClock = field(default_factory=SystemClock)
    session: str = "sesn_1"
    who: tuple[Who, ...] = ()
    """Who stands behind the calls."""
    policy: str | None = None
    """The gateway's, in Cedar; without one whatever has a route may be called."""

    def __post_init__(self) -> None:
        now = self.clock.now()
        self.home.mkdir(parents=True, exist_ok=True)
        self.edge_ca, pair = make_self_signed_edge(["127.0.0.1", "localhost"], now)
        self.write("edge-ca.crt", self.edge_ca)
        self.write("edge.crt", pair.cert_pem)
        self.write("edge.key", pair.key_pem)
        self.write("control.pub", self.key.public_pem())
        self.ca = make_ca("test tunnel", now)
        self.use_certificate(make_server_certificate(self.ca, [f"*.{DOMAIN}"], now))
        self.use_token(self.version)

    def write(self, name: str, data: bytes) -> Path:
        path = self.home / name
        path.write_bytes(data)
        return path

    def use_certificate(self, pair: KeyPair) -> None:
        self.write("tls.crt", pair.cert_pem)
        self.write("tls.key", pair.key_pem)

    def use_token(self, version: int) -> None:
        token = self.key.mint_tunnel_token(TunnelToken(TUNNEL, DOMAIN, version))
        self.write("tunnel-token", token.encode())

    def edge_settings(self, port: int = 0) -> EdgeSettings:
        return EdgeSettings(
            cert_file=self.home / "edge.crt",
            key_file=self.home / "edge.key",
            control_key_file=self.home / "control.pub",
            audit_file=self.home / "edge-audit.jsonl",
            record_dir=self.home / "recorded",
            port=port,
            drain_s=2.0,
        )

    def config(self, edge_ports: Sequence[int], upstream_port: int) -> GatewayConfig:
        edges = ", ".join(f'"127.0.0.1:{port}"' for port in edge_ports)
        text = f"""
            listen_addr: ":8080"
            tunnel_domain: {DOMAIN}
            tls: {{cert_file: tls.crt, key_file: tls.key}}
            routes: {{docs: "http://127.0.0.1:{upstream_port}", gone: "http://127.0.0.1:1"}}
            upstream: {{allowed_ips: [127.0.0.1]}}
            shutdown_timeout: 2s
            edge: [{edges}]
            edge_ca_file: edge-ca.crt
            token_file: tunnel-token
            control_key_file: control.pub
            audit_file: gateway-audit.jsonl
        """
        config = parse_config(text.encode(), self.home)
        if self.policy is None:
            return config
        return replace(config, policy_file=self.write("policy.cedar", self.policy.encode()))

    async def mint(self, host: str, connection: str = "") -> str:
        ticket = DialTicket(
            TUNNEL, DOMAIN, host, self.version, "sesn_1", "t-1", connection=connection
        )
        return self.key.mint_dial_ticket(ticket, self.clock.now().timestamp())

    async def vouch(self, host: str) -> str:
        ticket = CallTicket(TUNNEL, host, self.session, "t-1", "wrkspc_1", "agent_1", 1, self.who)
        return self.key.mint_call_ticket(ticket, self.clock.now().timestamp())

    async def cas(self, _host: str) -> list[str]:
        return [self.ca.cert_pem.decode()]

    def dialer(self, *edge_ports: int) -> TunnelDialer:
        edges = [Edge("127.0.0.1", port, "127.0.0.1") for port in edge_ports]
        return TunnelDialer(
            edges, outer_context(self.edge_ca.decode()), self.mint, self.vouch, self.cas
        )

    def audit(self, name: str) -> list[dict[str, object]]:
        lines = (self.home / name).read_text().splitlines()
        verify(lines)
        return [json.loads(line) for line in lines]

    def recorded(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted((self.home / "recorded").iterdir()))


@asynccontextmanager
async def running_edge(rig: Rig, port: int = 0) -> AsyncIterator[int]:
    """Run an edge; gives its port."""
    ready = anyio.Event()
    found: list[Listening] = []

    def on_ready(listening: Listening) -> None:
        found.append(listening)
        ready.set()

    async with anyio.create_task_group() as group:

        async def run() -> None:
            await serve_edge(rig.edge_settings(port), on_ready=on_ready)

        group.start_soon(run)
        with anyio.fail_after(30):
            await ready.wait()
        try:
            yield found[0].port
        finally:
            group.cancel_scope.cancel()


@asynccontextmanager
async def running_gateway(
    config: GatewayConfig | GatewaySettings, *, links: int = 1
) -> AsyncIterator[Stop]:
    """Run a gateway and wait until it has its links."""
    ready, stop = anyio.Event(), Stop()
    seen: list[str] = []

    def on_ready(edge: str) -> None:
        seen.append(edge)
        if len(seen) >= links:
            ready.set()

    async with anyio.create_task_group() as group:

        async def run() -> None:
            await serve_gateway(config, on_ready=on_ready, stop=stop)

        group.start_soon(run)
        if links:
            with anyio.fail_after(30):
                await ready.wait()
        try:
            yield stop
        finally:
            group.cancel_scope.cancel()


@asynccontextmanager
async def running_upstream(app: ASGIApp, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve an ASGI application on loopback; gives its port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_level="error", timeout_graceful_shutdown=1, access_log=False
        )
        config.load()
        config.ssl = tls
        server = uvicorn.Server(config)
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await server.serve(sockets=[sock])

            group.start_soon(run)
            try:
                with anyio.fail_after(30):
                    # uvicorn says that it is up in a flag only.
                    while not server.started:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                yield sock.getsockname()[1]
            finally:
                server.should_exit = True


@asynccontextmanager
async def running_tunnel(rig: Rig, app: ASGIApp) -> AsyncIterator[tuple[httpx2.AsyncClient, int]]:
    """Run everything; gives a client that goes through the tunnel, and the edge's port."""
    async with (
        running_upstream(app) as upstream_port,
        running_edge(rig) as edge_port,
        running_gateway(rig.config([edge_port], upstream_port)),
        client_of(rig, edge_port) as client,
    ):
        yield client, edge_port


@asynccontextmanager
async def client_of(rig: Rig, *edge_ports: int) -> AsyncIterator[httpx2.AsyncClient]:
    """A client whose every connection goes through the tunnel."""
    transport = TunnelTransport(rig.dialer(*edge_ports))
    async with httpx2.AsyncClient(transport=transport, timeout=30) as client:
        yield client


def url(path: str = "/", label: str = "docs") -> str:
    return f"https://{label}.{DOMAIN}{path}"


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float) -> None:
    """Wait until something outside our reach is so; if it never is, say where each task waits."""
    with anyio.move_on_after(within_s):
        # What is waited for happens in other tasks and files; nothing sets an event.
        while not await check():  # noqa: ASYNC110
            await anyio.sleep(0.05)
        return
    late = TimeoutError(f"not so within {within_s:g} s")
    late.add_note("\n".join(sorted(map(_waits_at, asyncio.all_tasks()))))
    raise late


def _waits_at(task: asyncio.Task[Any]) -> str:
    """Return the files and lines of what a task has under way, outermost first."""
    places: list[str] = []
    running: object = task.get_coro()
    while isinstance(running, CoroutineType) and running.cr_frame is not None:
        places.append(f"{Path(running.cr_code.co_filename).name}:{running.cr_frame.f_lineno}")
        running = running.cr_await
    return " ".join(places)
