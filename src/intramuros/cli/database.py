"""``intramuros db``: the control plane's database, without a running server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import typer

from intramuros.cli.layout import Layout
from intramuros.cli.options import imported
from intramuros.cli.output import say
from intramuros.cli.upkeep import DataDir, Url, backup, move, restore, verify
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.protocol import audit

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from intramuros.control.store.db import Database

app = typer.Typer(help="The control plane's database.", no_args_is_help=True)

STORE: Final = "intramuros.control.store"


class DatabaseDamaged(DomainError):
    """What is stored is not what was written: restore a backup."""


@app.command("check")
def check(
    data_dir: DataDir = Path("intramuros-data"),
    database_url: Url = None,
) -> None:
    """Check the database, its schema and the audit chain in it; status 1 if one is wrong.

    Example: intramuros db check --data-dir ./data
    """
    head = imported(f"{STORE}.migrate", "server", "scripts")().get_current_head()
    with _opened(data_dir, database_url) as db:
        found = anyio.run(db.read, lambda tx: _integrity(tx.connection))
        revision = anyio.run(db.read, lambda tx: _revision(tx.connection))
        lines = _audit_lines(db)
    if found != "ok":
        raise DatabaseDamaged(f"the database is damaged: {found}")
    try:
        records = audit.verify(lines).seq
    except audit.BrokenChain as error:
        raise DatabaseDamaged(f"the audit chain is not what was written: {error}") from error
    say(f"database ok\tschema {revision}\taudit {records} records")
    if revision != head:
        raise OperatorError(f"the schema is {revision}, not {head}", "run `intramuros db upgrade`")


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


def control_audit(data_dir: Path) -> list[str] | None:
    """Return the lines of the control plane's audit chain, or None if there is no database."""
    if not Layout(data_dir).database.exists():
        return None
    with _opened(data_dir) as db:
        return _audit_lines(db)


@contextmanager
def _opened(data_dir: Path, database_url: str | None = None) -> Iterator["Database"]:
    file = Layout(data_dir).database
    if database_url is None and not file.exists():
        raise OperatorError(f"there is no database {file}", "name the server's --data-dir")
    database = imported(f"{STORE}.db", "server", "Database")
    db: Database = database.open(database_url or f"sqlite:///{file.absolute()}")
    try:
        yield db
    finally:
        db.close()


def _audit_lines(db: "Database") -> list[str]:
    read_lines = imported("intramuros.control.identity.audit", "server", "read_lines")
    lines: list[str] = anyio.run(db.read, lambda tx: list(read_lines(tx)))
    return lines


def _integrity(connection: "Connection") -> str:
    """Return what the engine finds wrong with its file, or "ok"."""
    if connection.dialect.name != "sqlite":
        return "ok"  # its server keeps checksums
    return str(connection.exec_driver_sql("PRAGMA integrity_check").scalar())


def _revision(connection: "Connection") -> str | None:
    context = imported("alembic.migration", "server", "MigrationContext")
    revision: str | None = context.configure(connection).get_current_revision()
    return revision
