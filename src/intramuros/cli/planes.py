"""``intramuros server | worker | edge | gateway``: one plane in one process."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio
import typer

from intramuros.cli.options import imported, settings_command
from intramuros.cli.output import say
from intramuros.kernel.service import Stop, Task, on_hangup, run_service

if TYPE_CHECKING:
    from intramuros.control.settings import ServerSettings
    from intramuros.execution.settings import WorkerSettings
    from intramuros.tunnel.edge_app import EdgeSettings, Listening
    from intramuros.tunnel.gateway_app import GatewaySettings

EDGE_DRAIN_S = 35.0
GATEWAY_DRAIN_S = 40.0


def add_planes(app: typer.Typer) -> None:
    """Add a command for each plane."""
    app.command("server")(
        settings_command(
            "intramuros.control.settings",
            "ServerSettings",
            _server,
            extra="server",
            doc="Run the control plane: API, agent loop, event log.\n\n"
            "Example: intramuros server --data-dir ./data --port 7700",
        )
    )
    app.command("worker")(
        settings_command(
            "intramuros.execution.settings",
            "WorkerSettings",
            _worker,
            extra="worker",
            doc="Run a worker inside the perimeter: it claims sessions by polling, and runs their "
            "tools in a sandbox each.\n\nExample: intramuros worker --base-url "
            "https://agents.example --environment-id env_… --environment-key-file key",
        )
    )
    app.command("edge")(
        settings_command(
            "intramuros.tunnel.edge_app",
            "EdgeSettings",
            _edge,
            extra="tunnel",
            doc="Run an edge: it relays tunnel streams and sees only ciphertext.\n\n"
            "Example: intramuros edge --cert-file edge.pem --key-file edge.key "
            "--control-key-file control.pem --audit-file edge.jsonl",
        )
    )


def _server(settings: "ServerSettings") -> None:
    serve = imported("intramuros.control.app", "server", "serve")

    async def run() -> None:
        await serve(settings)

    anyio.run(run, backend_options={"use_uvloop": True})


def _worker(settings: "WorkerSettings") -> None:
    serve = imported("intramuros.execution.worker", "worker", "serve_worker")
    make = imported("intramuros.execution.sandbox.providers", "worker", "open_provider")

    async def run() -> None:
        provider = make(settings.provider, settings.state_dir / "sandboxes")
        await serve(settings, provider=provider, ready=lambda env: _ready(f"worker {env}"))

    anyio.run(run, backend_options={"use_uvloop": True})


def _edge(settings: "EdgeSettings") -> None:
    serve = imported("intramuros.tunnel.edge_app", "tunnel", "serve_edge")

    async def task(stop: Stop) -> None:
        def ready(at: "Listening") -> None:
            _ready(f"{at.host}:{at.port}")

        await serve(settings, on_ready=ready, stop=stop)

    run_plane("edge", task, EDGE_DRAIN_S)


def run_gateway(settings: "GatewaySettings") -> None:
    """Run a gateway until stopped; it is ready once it is linked to an edge."""
    serve = imported("intramuros.tunnel.gateway_app", "tunnel", "serve_gateway")

    asked = imported("intramuros.tunnel.reload", "tunnel", "Asked")()

    async def task(stop: Stop) -> None:
        await serve(settings, on_ready=_ready, stop=stop, asked=asked)

    async def hangups(stop: Stop) -> None:
        await on_hangup(asked.ask, stop)

    run_plane("gateway", task, GATEWAY_DRAIN_S, {"hangups": hangups})


def run_plane(
    name: str, task: Task, drain_s: float, others: Mapping[str, Task] | None = None
) -> None:
    """Run one plane's task on uvloop, and others beside it, until a signal stops them."""

    async def run() -> None:
        await run_service({**(others or {}), name: task}, drain_s=drain_s)

    anyio.run(run, backend_options={"use_uvloop": True})


def _ready(address: str) -> None:
    say(f"ready {address}")
