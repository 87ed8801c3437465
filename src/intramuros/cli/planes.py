"""``intramuros server | worker | edge | gateway``: one plane in one process."""

from typing import TYPE_CHECKING

import anyio
import typer

from intramuros.cli.options import imported, settings_command
from intramuros.cli.output import say
from intramuros.kernel.service import Stop, Task, run_service

if TYPE_CHECKING:
    from intramuros.tunnel.edge_app import EdgeSettings, Listening
    from intramuros.tunnel.gateway_app import GatewaySettings

EDGE_DRAIN_S = 35.0
GATEWAY_DRAIN_S = 40.0


def add_planes(app: typer.Typer) -> None:
    """Add a command for each plane."""
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

    async def task(stop: Stop) -> None:
        await serve(settings, on_ready=_ready, stop=stop)

    run_plane("gateway", task, GATEWAY_DRAIN_S)


def run_plane(name: str, task: Task, drain_s: float) -> None:
    """Run one plane's task on uvloop until it ends or a signal stops it."""

    async def run() -> None:
        await run_service({name: task}, drain_s=drain_s)

    anyio.run(run, backend_options={"use_uvloop": True})


def _ready(address: str) -> None:
    say(f"ready {address}")
