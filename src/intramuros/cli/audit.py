"""``intramuros audit``: verify, export and report the records of what was done."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from intramuros.cli.crossing import checked, crossings, totals
from intramuros.cli.database import control_audit
from intramuros.cli.layout import Layout
from intramuros.cli.output import note, say, table
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.protocol.audit import BrokenChain, Head

app = typer.Typer(help="The hash-chained records on each side of the wall.", no_args_is_help=True)

FilesArgument = Annotated[
    list[Path] | None, typer.Argument(help="Audit files; or use --data-dir.", metavar="FILE…")
]
DirectoryOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Data directory whose records are meant.")
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="INTRAMUROS_DATABASE_URL",
        help="The server's database, if it is not the file in the data directory; better in the"
        " environment, since others see flags.",
    ),
]


class ChainBroken(DomainError):
    """A record was changed, dropped or reordered: compare with a copy from elsewhere."""


@app.command("verify")
def verify(
    files: FilesArgument = None,
    data_dir: DirectoryOption = None,
    database_url: DatabaseOption = None,
    contains: Annotated[
        list[str] | None,
        typer.Option(help="A hash that was printed before: it must still be in a chain."),
    ] = None,
) -> None:
    """Check every chain and print its length and last hash; status 1 if one is broken.

    A chain cannot tell that its end was cut off. Note the printed hash somewhere else, and pass it
    the next time with --contains.

    Example: intramuros audit verify worker/audit.jsonl
    """
    missing = set(contains or ())
    for name, lines in _logs(files, data_dir, database_url):
        records, head = _checked(name, lines)
        missing -= {str(record["hash"]) for record in records}
        say(f"{name}\t{head.seq} records\t{head.hash}")
    if missing:
        raise ChainBroken(f"no chain holds {', '.join(sorted(missing))}: its end was cut off")


@app.command("export")
def export(
    files: FilesArgument = None,
    data_dir: DirectoryOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Print verified records as JSON lines, each with the name of its log.

    Example: intramuros audit export --data-dir ./data > records.jsonl
    """
    for name, lines in _logs(files, data_dir, database_url):
        records, _ = _checked(name, lines)
        for record in records:
            say(json.dumps({"log": name, **record}, ensure_ascii=False))


@app.command("report")
def report(
    session_id: Annotated[str, typer.Argument(help="The session, sesn_….", metavar="SESSION_ID")],
    data_dir: DirectoryOption = None,
    worker: Annotated[Path | None, typer.Option(help="The worker's audit file.")] = None,
    gateway: Annotated[Path | None, typer.Option(help="The gateway's audit file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every crossing as JSON.")] = False,
) -> None:
    """Print what crossed the wall for a session, by direction and rule.

    Also what the filters found in what was to leave, and what was held back because of it; with
    --json each with its digests.

    Example: intramuros audit report sesn_… --data-dir ./data
    """
    kept = Layout(data_dir).audit_files() if data_dir else {}
    named = {"worker": worker or kept.get("worker"), "gateway": gateway or kept.get("gateway")}
    files = {name: file for name, file in named.items() if file is not None}
    if not files:
        raise OperatorError("no audit file", "pass --data-dir, or --worker and --gateway")
    found = []
    for name, file in files.items():
        records, _ = _checked(name, _lines(file))
        found += crossings(name, records, session_id)
    if not found:
        note(f"nothing of {session_id} is in {' or '.join(str(file) for file in files.values())}")
    if as_json:
        for crossing in found:
            say(json.dumps(asdict(crossing), ensure_ascii=False))
        return
    columns = ("program", "direction", "rule", "count", "bytes")
    table(columns, [total.__dict__ for total in totals(found)])


def _logs(
    files: list[Path] | None, data_dir: Path | None, database_url: str | None
) -> Iterator[tuple[str, list[str]]]:
    """Yield each log's name and lines; a data directory or a database has the control plane's."""
    if files:
        yield from ((str(file), _lines(file)) for file in files)
        return
    if data_dir is None and database_url is None:
        raise OperatorError("no audit file", "name files, or pass --data-dir")
    control = control_audit(data_dir, database_url)
    if control is not None:
        yield "control", control
    if data_dir is None:
        return
    yield from ((name, _lines(file)) for name, file in Layout(data_dir).audit_files().items())


def _lines(file: Path) -> list[str]:
    try:
        return list(read_lines(file))
    except OSError as error:
        raise OperatorError(
            f"cannot read {file} ({error.strerror})", "check the path and its mode"
        ) from error
    except UnicodeDecodeError as error:
        raise ChainBroken(f"{file} is no audit log") from error


def _checked(name: str, lines: list[str]) -> tuple[list[dict[str, object]], Head]:
    try:
        return checked(lines)
    except BrokenChain as error:
        raise ChainBroken(f"the log {name} is not what was written: {error}") from error
