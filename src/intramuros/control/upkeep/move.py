"""Moves a database from SQLite to PostgreSQL, every row and number, or nothing at all.

The rows are copied and read back in one transaction of the target's. Afterwards the file is marked,
so that no server goes on with it by mistake. Killed before the commit, nothing has happened; killed
between the two, the next run finds the same rows there and only sets the mark.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import anyio
from sqlalchemy import Connection

from intramuros.control.identity import audit
from intramuros.control.store import snapshots, whole
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.drivers import raw
from intramuros.control.store.sqlite import MOVED, PREFIX, Sqlite
from intramuros.control.store.whole import Sum, Tell
from intramuros.control.upkeep import restore
from intramuros.control.upkeep.attached import Attached, Place, attach, hold_key
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock

BY: Final = "intramuros db move"


@dataclass(frozen=True)
class Moved:
    """What arrived. ``before`` tells that an earlier run had done it."""

    tables: dict[str, Sum]
    before: bool

    @property
    def rows(self) -> int:
        """How many rows there are in all tables."""
        return sum(one.rows for one in self.tables.values())


def move(place: Place, to_url: str, tell: Tell) -> Moved:
    """Move a database.

    Args:
        place: where it is; on SQLite.
        to_url: an empty PostgreSQL database.
        tell: gets lines of progress.

    Raises:
        OperatorError: a server is running, the target is not empty, or cannot hold what is there.
        BadBackup: what arrived is not what was sent; nothing of it stays.
        Unavailable: the target refused.
    """
    _check_kinds(place, to_url)
    source = attach(place, alone=True)
    try:
        with source.db.engine.connect() as connection:
            whole.check_fits_postgres(connection)
        there = _already(source, to_url, tell)
        if there is None:
            source.record("installation.move", by=BY, to="postgresql")
            with _state(source.db) as connection:
                tables = restore.put_all(connection, to_url, tell)
        else:
            tables = there
        with source.db.engine.connect() as connection:
            raw(connection).execute(f"PRAGMA user_version={MOVED}")
    finally:
        source.close()
    return Moved(tables, before=there is not None)


def undo(place: Place) -> None:
    """Let servers use a file again whose rows were moved.

    Raises:
        OperatorError: a server is running, or the file was not moved.
    """
    if place.file is None or not place.file.exists():
        raise OperatorError("there is no database on SQLite", "name the server's --data-dir")
    held = hold_key(place, alone=True)
    try:
        made = Sqlite.open(f"{PREFIX}{place.file}", moved=True)
        with made.engine.connect() as connection, made.transaction(connection, None):
            if connection.exec_driver_sql("PRAGMA user_version").scalar() != MOVED:
                raise OperatorError("this database was not moved", "just start the server")
            audit.record(
                Tx(connection),
                SystemClock(),
                "installation.move_undone",
                workspace_id=None,
                fields={"by": BY},
            )
            connection.exec_driver_sql("PRAGMA user_version=0")
        made.engine.dispose()
        made.readers.dispose()
    finally:
        held.release()


def _check_kinds(place: Place, to_url: str) -> None:
    if place.file is None:
        raise OperatorError(
            "the database is not on SQLite", "use `intramuros db backup` and `restore`"
        )
    if not to_url.startswith(("postgresql:", "postgres:")):
        raise OperatorError(
            "a database can be moved to PostgreSQL only", "write it as postgresql://USER@HOST/NAME"
        )


def _already(source: Attached, to_url: str, tell: Tell) -> dict[str, Sum] | None:
    """Return what the target holds if that is all of the source, or None if it is empty.

    Raises:
        OperatorError: it holds something else.
    """
    db = Database.open(to_url, statement_s=0)
    try:
        taken = anyio.run(db.read, lambda tx: whole.occupied(tx.connection))
        if taken is None:
            return None
        with snapshots.reading(db) as there, _state(source.db) as here:
            found, own = whole.sums(there, tell), whole.sums(here, tell)
    finally:
        db.close()
    if found != own:
        raise OperatorError(
            f"the database is not empty: the table {taken} has rows", "name an empty database"
        )
    return own


@contextmanager
def _state(db: Database) -> Iterator[Connection]:
    with db.engine.connect() as connection, db.backend.snapshot(connection):
        yield connection
