"""The command line: one command for each thing an operator does."""

import sys
from typing import Annotated

import typer

from intramuros.cli import (
    audit,
    database,
    gateway,
    keys,
    sessions,
    snapshots,
    ssh_certificates,
    tunnels,
    users,
    workspaces,
)
from intramuros.cli.demo.command import demo
from intramuros.cli.doctor import doctor
from intramuros.cli.failures import guarded
from intramuros.cli.planes import add_planes
from intramuros.cli.ssh import ssh
from intramuros.cli.up import up
from intramuros.kernel import telemetry

app = typer.Typer(
    name="intramuros",
    help="Agents whose brain and hands live on different sides of a wall.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain: tables cut the names of options and variables off on a terminal of 80 columns.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    log_level: Annotated[
        str,
        typer.Option(
            envvar="INTRAMUROS_LOG_LEVEL", help="debug, info, warning or error.", metavar="LEVEL"
        ),
    ] = "info",
    log_json: Annotated[
        bool, typer.Option("--log-json", envvar="INTRAMUROS_LOG_JSON", help="Log as JSON lines.")
    ] = False,
) -> None:
    """Agents whose brain and hands live on different sides of a wall."""
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("use debug, info, warning or error", param_hint="--log-level")
    telemetry.configure(json=log_json, level=log_level)


app.command("up")(up)
app.command("demo")(demo)
add_planes(app)
app.add_typer(gateway.app, name="gateway")
app.add_typer(tunnels.app, name="tunnel")
app.add_typer(sessions.app, name="session")
app.add_typer(snapshots.app, name="snapshot")
app.command("ssh")(ssh)
app.add_typer(ssh_certificates.app, name="ssh-certificate")
app.add_typer(audit.app, name="audit")
app.add_typer(keys.key_app, name="key")
app.add_typer(keys.environment_key_app, name="environment-key")
app.add_typer(keys.pool_key_app, name="pool-key")
app.add_typer(users.app, name="user")
app.add_typer(workspaces.app, name="workspace")
app.add_typer(database.app, name="db")
app.command("doctor")(doctor)


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(guarded(app))


if __name__ == "__main__":
    main()
