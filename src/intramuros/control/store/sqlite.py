"""SQLite: one file, one writer at a time, readers that never wait for it (WAL)."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from intramuros.control.store.codec import decode, encode
from intramuros.control.store.drivers import DRIVERS, Fetched, Keys, LostTransaction, raw
from intramuros.control.store.prepared import DIALECT
from intramuros.kernel.errors import OperatorError

PREFIX: Final = "sqlite:///"
READERS: Final = 4
BUSY_TIMEOUT_MS: Final = 5_000
# Parsed statements that the driver keeps for each connection: more than there are texts of ours.
STATEMENTS: Final = 512
# The user_version of a file whose rows live on in another database: nobody may go on with it.
MOVED: Final = 0x6D6F7665
# A transaction that writes waits for others at its beginning, and never fails in its middle.
BEGIN: Final = "BEGIN IMMEDIATE"


class SqliteDriver:
    """Prepared statements by way of the standard library."""

    dialect: Dialect = DIALECT
    failure: type[Exception] = sqlite3.Error

    def fetch(self, connection: Connection, sql: str, values: Mapping[str, object]) -> Fetched:
        """Run one statement; return its rows, and how many it concerned."""
        cursor = raw(connection).execute(sql, values)
        return cursor.fetchall(), cursor.rowcount

    def later(
        self, connection: Connection, sql: str, values: Mapping[str, object]
    ) -> Callable[[], Fetched]:
        """Run one statement now: the way is short. Return who tells what it gave."""
        found = self.fetch(connection, sql, values)
        return lambda: found

    def run_many(
        self, connection: Connection, sql: str, rows: Sequence[Mapping[str, object]]
    ) -> None:
        """Run one statement once for each row of parameters."""
        raw(connection).executemany(sql, rows)


DRIVERS["sqlite"] = SqliteDriver()


class Sqlite:
    """A database file. Every writer is alone, so that keys mean nothing."""

    lanes = 0
    reading = READERS
    looks_here = True
    shared_url: str | None = None

    def __init__(self, engine: Engine, readers: Engine) -> None:
        self.engine = engine
        self.readers = readers

    @classmethod
    def open(cls, url: str, *, moved: bool = False) -> "Sqlite":
        """Open ``sqlite:///path/to/file.db``; the file is created when absent.

        Args:
            url: where it is.
            moved: also if its rows live on in another database.

        Raises:
            OperatorError: the file cannot be opened or is no database.
        """
        path = Path(url.removeprefix(PREFIX))
        engine = _engine(path, readers=False)
        try:
            with engine.connect() as probe:
                probe.exec_driver_sql("SELECT count(*) FROM sqlite_master")
                gone = probe.exec_driver_sql("PRAGMA user_version").scalar() == MOVED
        except (DBAPIError, sqlite3.Error) as error:
            raise OperatorError(
                f"cannot open the database {path} ({getattr(error, 'orig', error)})",
                "check the directory, its owner and free space; if the file is damaged:"
                " docs/how-to/disaster.md",
            ) from error
        if gone and not moved:
            raise OperatorError(
                f"the database {path} was moved to PostgreSQL",
                "set INTRAMUROS_DATABASE_URL to where it is, or run `intramuros db move --undo`",
            )
        return cls(engine, _engine(path, readers=True))

    @contextmanager
    def transaction(self, connection: Connection, keys: Keys | None) -> Iterator[None]:
        """Frame a transaction, or what is left of one that :meth:`begin_now` began."""
        if not raw(connection).in_transaction:
            raw(connection).execute(BEGIN)
        try:
            yield
            # A refused COMMIT leaves the transaction open: the next would be part of it.
            _commit(connection)
        except BaseException:
            self.roll_back(connection)
            raise

    @contextmanager
    def snapshot(self, connection: Connection) -> Iterator[None]:
        """Frame reads of one state of the database."""
        raw(connection).execute("BEGIN")
        try:
            yield
        finally:
            self.roll_back(connection)

    def begin_now(self, connection: Connection) -> bool:
        """Begin a transaction if that takes no waiting, and tell whether it did."""
        here = raw(connection)
        here.execute("PRAGMA busy_timeout=0")
        try:
            here.execute(BEGIN)
        except sqlite3.OperationalError:
            return False
        finally:
            here.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        return True

    def roll_back(self, connection: Connection) -> None:
        """End a transaction and undo it."""
        connection.rollback()
        if raw(connection).in_transaction:
            raw(connection).execute("ROLLBACK")

    @contextmanager
    def apart(self, connection: Connection, *, only: bool) -> Iterator[None]:
        """Frame a part that may fail by itself.

        Raises:
            LostTransaction: it failed, and SQLite rolled everything back.
        """
        here = raw(connection)
        if not only:
            here.execute("SAVEPOINT one")
        try:
            yield
        except BaseException as error:
            if not here.in_transaction:
                raise LostTransaction from error
            if not only:
                here.execute("ROLLBACK TO one")
                here.execute("RELEASE one")
            raise
        if not only:
            here.execute("RELEASE one")

    def take_turn(self, connection: Connection) -> None:
        """Do nothing: it is this writer's turn."""

    def passing(self, error: BaseException) -> bool:
        """Tell that nothing passes by itself."""
        return False

    def verdict(self, error: BaseException) -> BaseException:
        """Return the error as it is."""
        return error

    def lost(self, connection: Connection) -> bool:
        """Tell whether a transaction could not be ended: the next would be part of it."""
        return bool(raw(connection).in_transaction)


def _commit(connection: Connection) -> None:
    # SQLAlchemy has begun one of its own, around ours, if it was asked to run something.
    connection.commit()
    if raw(connection).in_transaction:
        raw(connection).execute("COMMIT")


def _engine(path: Path, *, readers: bool) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool if readers else NullPool,
        connect_args={
            "check_same_thread": False,
            "isolation_level": None,
            "cached_statements": STATEMENTS,
        },
        json_serializer=encode,
        json_deserializer=decode,
        # One more: what is looked up on the loop's thread.
        **({"pool_size": READERS + 1, "max_overflow": 0} if readers else {}),
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            # Deleted secrets, sealed as they are, do not linger in the pages.
            "secure_delete=FAST",
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            f"query_only={'ON' if readers else 'OFF'}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not raw(connection).in_transaction:
            raw(connection).execute("BEGIN" if readers else BEGIN)

    return engine
