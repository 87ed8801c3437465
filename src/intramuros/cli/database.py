"""``intramuros db``: the control plane's database, without a running server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import anyio
import typer

from intramuros.cli.layout import Layout
from intramuros.cli.options import imported
from intramuros.cli.output import say
from intramuros.cli.retention import retention
from intramuros.cli.upkeep import (
    BlobUrl,
    DataDir,
    Progress,
    Url,
    backup,
    move,
    place_of,
    replace_lost_key,
    restore,
    verify,
)
from intramuros.kernel.errors import DomainError, OperatorError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from intramuros.control.store.db import Database
    from intramuros.control.upkeep.check import Finding

app = typer.Typer(help="The control plane's database.", no_args_is_help=True)

Replicas = Annotated[
    list[str] | None,
    typer.Option(
        "--database-replica",
        envvar="INTRAMUROS_DATABASE_REPLICA",
        help="A read replica of the server's; repeatable, or several with commas.",
    ),
]

STORE: Final = "intramuros.control.store"


class DatabaseDamaged(DomainError):
    """What is stored is not what was written: restore a backup."""


@app.command("check")
def check(
    data_dir: DataDir = Path("intramuros-data"),
    database_url: Url = None,
    blob_url: BlobUrl = None,
    database_replica: Replicas = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also read every file's bytes and fold every session's log."),
    ] = False,
) -> None:
    """Say what is wrong with an installation, where, and what to do; status 1 if anything is.

    Looks at the database and its schema, the audit chain, every log, the master key and what it
    sealed, files, the certificates that tunnels trust, and read replicas if any are named; changes
    nothing.

    Example: intramuros db check --data-dir ./data
    """
    examine = imported("intramuros.control.upkeep.check", "server", "examine")
    place = place_of(data_dir, database_url, blob_url)
    found: list[Finding] = list(examine(place, Progress().tell, deep=deep))
    # Commas as in the server's own variable.
    if replicas := [url for one in database_replica or () for url in one.split(",") if url]:
        look = imported("intramuros.control.upkeep.replicas", "server,postgres", "examine_replicas")
        found.extend(look(place.url, replicas))
    wrong = [one for one in found if one.fix]
    for one in wrong:
        say(f"✗ {one.what}\n    {one.fix}")
    if wrong:
        raise DatabaseDamaged(f"{len(wrong)} thing(s) are wrong: see the lines marked ✗")
    say("\t".join(["database ok", *(one.what for one in found[1:])]))


@app.command("upgrade")
def upgrade(
    data_dir: DataDir = Path("intramuros-data"),
    database_url: Url = None,
) -> None:
    """Bring the database to this version's schema; the server does the same when it starts.

    Example: intramuros db upgrade --data-dir ./data
    """
    run = imported(f"{STORE}.migrate", "server", "upgrade")
    with _opened(data_dir, database_url) as db:
        run(db.engine)
        revision = anyio.run(db.read, lambda tx: _revision(tx.connection))
    say(f"schema {revision}")


app.command("backup")(backup)
app.command("verify")(verify)
app.command("restore")(restore)
app.command("move")(move)
app.command("replace-lost-key")(replace_lost_key)
app.command("retention")(retention)


@app.command("rotate-key")
def rotate_key(data_dir: DataDir = Path("intramuros-data"), database_url: Url = None) -> None:
    """Seal every secret by a new master key; stop the server first, run again if it was killed.

    Example: intramuros db rotate-key --data-dir ./data
    """
    rotate = imported("intramuros.control.identity.rotation", "server", "rotate_master_key")
    done = anyio.run(rotate, data_dir, database_url)
    if done.finished:
        say("a rotation that was broken off is finished")
    else:
        say(f"{done.resealed} values sealed by a new master key")


def control_audit(data_dir: Path | None, database_url: str | None = None) -> list[str] | None:
    """Return the lines of the control plane's audit chain, or None if there is no database."""
    directory = data_dir or Path()
    if database_url is None and not Layout(directory).database.exists():
        return None
    with _opened(directory, database_url) as db:
        return _audit_lines(db)


@contextmanager
def _opened(data_dir: Path, database_url: str | None = None) -> Iterator["Database"]:
    file = Layout(data_dir).database
    if database_url is None and not file.exists():
        raise OperatorError(f"there is no database {file}", "name the server's --data-dir")
    database = imported(f"{STORE}.db", "server", "Database")
    db: Database = database.open(database_url or f"sqlite:///{file.absolute()}", statement_s=0)
    try:
        yield db
    finally:
        db.close()


def _audit_lines(db: "Database") -> list[str]:
    read_lines = imported("intramuros.control.identity.audit", "server", "read_lines")
    lines: list[str] = anyio.run(db.read, lambda tx: list(read_lines(tx)))
    return lines


def _revision(connection: "Connection") -> str | None:
    context = imported("alembic.migration", "server", "MigrationContext")
    revision: str | None = context.configure(connection).get_current_revision()
    return revision
