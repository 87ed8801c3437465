"""One state of a database as a SQLite file, whatever engine it is on, while servers write on.

On SQLite the file is made by ``VACUUM INTO``, in one read transaction and without the pages that
deleted rows have left; on PostgreSQL all rows are copied in one REPEATABLE READ snapshot.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from intramuros.control.store import whole
from intramuros.control.store.codec import decode, encode
from intramuros.control.store.db import Database
from intramuros.control.store.drivers import DRIVERS, raw
from intramuros.control.store.migrate import upgrade
from intramuros.control.store.sqlite import PREFIX, Sqlite
from intramuros.control.store.whole import Tell
from intramuros.kernel.errors import Unavailable

# Steps of SQLite's machine between two looks at how far it is: some tenths of a second.
_STEPS: Final = 2_000_000
# For PostgreSQL: a copy takes as long as it takes, and is idle while the other side writes.
_PATIENT: Final = (
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
)
# No partition is dropped from now on. What went in the moment since the snapshot began was of
# sessions that were deleted long before (partitions.SETTLED).
_HOLD_LOG: Final = "LOCK TABLE events IN ACCESS SHARE MODE"


def take(db: Database, file: Path, tell: Tell) -> None:
    """Write one state of a database into a new file (mode 0600), durably.

    Raises:
        Unavailable: it could not be read or written.
    """
    file.unlink(missing_ok=True)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        if isinstance(db.backend, Sqlite):
            _vacuum(db, file, tell)
        else:
            with reading(db) as source, filling(file) as target:
                whole.copy(source, target, tell)
    except (DBAPIError, DRIVERS[db.engine.dialect.name].failure) as error:
        raise Unavailable(f"the database could not be copied: {_told(error)}") from error
    synced(file)


@contextmanager
def reading(db: Database) -> Iterator[Connection]:
    """Yield a connection in one snapshot that may take its time."""
    with db.backend.readers.connect() as connection, db.backend.snapshot(connection):
        be_patient(connection)
        if connection.dialect.name != "sqlite" and inspect(connection).has_table("events"):
            connection.exec_driver_sql(_HOLD_LOG)
        yield connection


@contextmanager
def filling(file: Path) -> Iterator[Connection]:
    """Yield a connection in a transaction on a new file with every table; one file is left."""
    made = Sqlite.open(f"{PREFIX}{file}")
    try:
        upgrade(made.engine)
        with made.engine.connect() as connection:
            # Rows come in the order of their references, and are checked in the end.
            raw(connection).execute("PRAGMA foreign_keys=OFF")
            with made.transaction(connection, None):
                yield connection
        one_file(made.engine)
    finally:
        made.engine.dispose()
        made.readers.dispose()


@contextmanager
def frozen(file: Path) -> Iterator[Connection]:
    """Yield a connection to a file that nobody changes, and that is not changed by looking."""
    engine = create_engine(
        URL.create(
            "sqlite",
            database=f"file:{quote(str(file.absolute()))}",
            query={"mode": "ro", "immutable": "1", "uri": "true"},
        ),
        poolclass=NullPool,
        json_serializer=encode,
        json_deserializer=decode,
    )
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def be_patient(connection: Connection) -> None:
    """Let this transaction last, on PostgreSQL; SQLite's do."""
    if connection.dialect.name != "sqlite":
        for statement in _PATIENT:
            connection.exec_driver_sql(statement)


def one_file(engine: Engine) -> None:
    """Leave a SQLite database as one file, with nothing beside it."""
    with engine.connect() as connection:
        raw(connection).execute("PRAGMA journal_mode=DELETE")


def synced(path: Path) -> None:
    """Make a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _vacuum(db: Database, file: Path, tell: Tell) -> None:
    with db.engine.connect() as connection:
        here = raw(connection)
        pages, size = (here.execute(f"PRAGMA {name}").fetchone()[0] for name in _SIZES)

        def look() -> None:
            tell(f"copying the database: {file.stat().st_size} of some {pages * size} bytes")

        here.set_progress_handler(look, _STEPS)
        try:
            with closing(here.cursor()) as cursor:
                cursor.execute("VACUUM INTO ?", (str(file),))
        finally:
            here.set_progress_handler(None, 0)


_SIZES: Final = ("page_count", "page_size")


def _told(error: Exception) -> str:
    return str(getattr(error, "orig", error)).splitlines()[0]
