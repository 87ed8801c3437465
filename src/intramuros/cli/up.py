"""``intramuros up``: everything on one machine."""

import random
from pathlib import Path
from typing import Annotated

import anyio
import typer

from intramuros.cli.layout import Layout, locked
from intramuros.cli.output import note, say
from intramuros.cli.stack import Plan, Stack, check_port
from intramuros.cli.supervise import supervising
from intramuros.kernel.service import Stop, run_service
from intramuros.kernel.timing import SystemClock

# More than all programs together take to stop one after another.
DRAIN_S = 60.0

DataDir = Annotated[
    Path,
    typer.Option(envvar="INTRAMUROS_DATA_DIR", help="Everything that is kept lies here."),
]
ModelUrl = Annotated[
    str | None,
    typer.Option(
        "--model-base-url",
        help="Messages-compatible model provider (env ANTHROPIC_UPSTREAM_BASE_URL).",
    ),
]
ModelKey = Annotated[
    str | None,
    typer.Option(
        "--model-api-key",
        help="Its key; better as env ANTHROPIC_UPSTREAM_API_KEY, since others can see this.",
    ),
]


def up(
    data_dir: DataDir = Path("intramuros-data"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API.")] = 7700,
    edge_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the edge.")] = 7844,
    model_base_url: ModelUrl = None,
    model_api_key: ModelKey = None,
    model_scripts: Annotated[
        Path | None, typer.Option(help="Directory of scripts for models named scripted/NAME.")
    ] = None,
    mount: Annotated[
        list[str] | None, typer.Option(help="SOURCE:TARGET shown read-only in sandboxes.")
    ] = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Start no worker.")] = False,
    no_edge: Annotated[bool, typer.Option("--no-edge", help="Start no edge.")] = False,
) -> None:
    """Run server, edge and worker here, and the gateway if one is set up in DATA_DIR/gateway.

    Prints one line, `ready http://HOST:PORT`, once everything serves. Whatever dies is started
    again; Ctrl-C stops it all.

    Example: intramuros up --data-dir ./data
    """
    layout = Layout(data_dir.absolute())
    if (layout.run / "lock").exists():
        with locked(layout):
            pass
    plan = Plan(
        layout=layout,
        host=host,
        port=check_port(host, port, "--port"),
        edge_port=None if no_edge else check_port(host, edge_port, "--edge-port"),
        model_base_url=model_base_url,
        model_api_key=model_api_key,
        model_scripts=None if model_scripts is None else model_scripts.absolute(),
        mounts=tuple(mount or ()),
    )

    async def run() -> None:
        async def task(stop: Stop) -> None:
            await _up(plan, stop, with_worker=not no_worker)

        await run_service({"up": task}, drain_s=DRAIN_S)

    layout.create()
    with locked(layout):
        try:
            anyio.run(run)
        finally:
            (layout.run / "address").unlink(missing_ok=True)


async def _up(plan: Plan, stop: Stop, *, with_worker: bool) -> None:
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await stop.wait()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        rand = random.SystemRandom().random
        async with supervising(SystemClock(), rand, plan.layout.run) as supervisor:
            stack = Stack(plan, supervisor)
            stack.prepare()
            url = await stack.start_server()
            if plan.edge_port is not None:
                await stack.start_edge()
            if with_worker:
                client = stack.client()
                async with client:
                    environment_id = await stack.ensure_environment(client)
                await stack.start_worker(environment_id)
            if (plan.layout.gateway / "gateway.yaml").exists() and plan.edge_port is not None:
                await stack.start_gateway()
            say(f"ready {url}")
            note(f"API key: {plan.layout.api_key}; logs: {plan.layout.log}; Ctrl-C stops all")
            await anyio.sleep_forever()
