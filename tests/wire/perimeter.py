"""An edge and a gateway beside a real server: what stands between it and private MCP servers."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import yaml
from anthropic import AsyncAnthropic
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.types import ASGIApp, Receive, Scope, Send

from intramuros.cli.stack import free_ports
from intramuros.kernel.timing import SystemClock
from intramuros.tunnel.certs import make_self_signed_edge
from intramuros.tunnel.config import load_config
from intramuros.tunnel.edge_app import EdgeSettings, Listening, serve_edge
from intramuros.tunnel.setup import InitOptions, Prepared, init
from tests.integration.tunnel.rig import running_gateway, running_upstream
from tests.wire.host import Server


@dataclass
class Later:
    """An application that is given once its own address is known."""

    app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert self.app is not None
        await self.app(scope, receive, send)


@dataclass
class Edge:
    """Where the edge will be; the server must know before it starts."""

    home: Path
    port: int = field(default_factory=lambda: free_ports("127.0.0.1", 1)[0])

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        ca, pair = make_self_signed_edge(["127.0.0.1"], SystemClock().now())
        for name, data in (("ca.pem", ca), ("cert.pem", pair.cert_pem), ("key.pem", pair.key_pem)):
            (self.home / name).write_bytes(data)

    @property
    def settings(self) -> dict[str, object]:
        """What the server is started with."""
        ca = str(self.home / "ca.pem")
        return {"edge": [f"127.0.0.1:{self.port}"], "edge_ca_file": ca}

    def recorded(self) -> bytes:
        """Every byte that it relayed."""
        return b"".join(path.read_bytes() for path in sorted((self.home / "recorded").iterdir()))


@dataclass
class Perimeter:
    """A tunnel whose gateway runs."""

    prepared: Prepared
    home: Path
    edge: Edge

    def url(self, label: str, path: str = "/mcp") -> str:
        """Return the address of a private server as agents have it."""
        return f"https://{label}.{self.prepared.domain}{path}"

    @property
    def audit(self) -> str:
        """The gateway's record."""
        return (self.home / "audit.jsonl").read_text()


@contextmanager
def serving(portal: BlockingPortal, apps: Mapping[str, ASGIApp]) -> Iterator[dict[str, int]]:
    """Serve private applications on loopback; gives their ports by label."""
    with ExitStack() as stack:
        yield {
            label: stack.enter_context(portal.wrap_async_context_manager(running_upstream(app)))
            for label, app in apps.items()
        }


@contextmanager
def perimeter(
    server: Server, edge: Edge, ports: Mapping[str, int], home: Path, policy: str | None = None
) -> Iterator[Perimeter]:
    """Run an edge, and a gateway with a new tunnel of the server's default workspace."""
    client = AsyncAnthropic(base_url=server.base_url, api_key=server.api_key)
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())

        async def prepare() -> Prepared:
            async with client:
                return await init(client, InitOptions(home), SystemClock().now())

        prepared = portal.call(prepare)
        ready = anyio.Event()

        async def run_edge() -> None:
            settings = EdgeSettings(
                cert_file=edge.home / "cert.pem",
                key_file=edge.home / "key.pem",
                control_key_file=home / "control.pub",
                audit_file=edge.home / "audit.jsonl",
                record_dir=edge.home / "recorded",
                port=edge.port,
                drain_s=1.0,
            )

            def on_ready(_listening: Listening) -> None:
                ready.set()

            await serve_edge(settings, on_ready=on_ready)

        stack.callback(portal.start_task_soon(run_edge).cancel)

        async def up() -> None:
            with anyio.fail_after(60):
                await ready.wait()

        portal.call(up)
        config = {
            "tunnel_domain": prepared.domain,
            "edge": [f"127.0.0.1:{edge.port}"],
            "edge_ca_file": str(edge.home / "ca.pem"),
            "token_file": "tunnel-token",
            "control_key_file": "control.pub",
            "audit_file": "audit.jsonl",
            "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
            "routes": {label: f"http://127.0.0.1:{port}" for label, port in ports.items()},
            "upstream": {"allowed_ips": ["127.0.0.1"]},
        }
        if policy is not None:
            (home / "policy.cedar").write_text(policy)
            config["policy_file"] = "policy.cedar"
        (home / "gateway.yaml").write_text(yaml.safe_dump(config))
        gateway = running_gateway(load_config(home / "gateway.yaml"))
        stack.enter_context(portal.wrap_async_context_manager(gateway))
        yield Perimeter(prepared, home, edge)
