"""Transactions: the only file that imports database drivers.

A store function is synchronous and gets a :class:`Tx`; a whole transaction costs one hop to a
database thread. On SQLite one writer thread takes every waiting transaction, runs each in its own
savepoint and commits them together, so that many callers share one ``fsync``; nobody is answered
before that commit. Readers have their own connections and never wait for the writer (WAL).
"""

import asyncio
import contextvars
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, cast

import anyio
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from intramuros.control.store.codec import decode, encode
from intramuros.control.store.prepared import DIALECT, Prepared, Rows
from intramuros.kernel.errors import OperatorError, Unavailable
from intramuros.kernel.telemetry import logger

T = TypeVar("T")

log = logger("store")

READERS: Final = 4
# One commit takes at most this many transactions: bounds the time that the first one waits.
GROUP_LIMIT: Final = 64
BUSY_TIMEOUT_MS: Final = 5_000
# What is read on the loop's thread takes less time than a thread's turn: a page of most lists.
GLANCE_ROWS: Final = 20
# Parsed statements that the driver keeps for each connection: more than there are texts of ours.
STATEMENTS: Final = 512


class Tx:
    """An open transaction: a SQLAlchemy connection and what to do once it is durable."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.scalar = connection.scalar
        self._hooks: list[Callable[[], None]] = []

    def run(self, statement: Prepared, parameters: Mapping[str, object] | None = None) -> Rows:
        """Run a prepared statement, and read all that it gives.

        Raises:
            DBAPIError: the database refused, as for :meth:`execute`.
        """
        given = {} if parameters is None else parameters
        plan = statement.plan(given)
        try:
            cursor = _raw(self.connection).execute(plan.sql, plan.bound(given))
            return Rows(plan, cursor.fetchall(), cursor.rowcount)
        except sqlite3.Error as error:
            raise _wrapped(plan.sql, error) from error

    def run_many(self, statement: Prepared, rows: Sequence[Mapping[str, object]]) -> None:
        """Run a prepared statement once for each row of parameters, which have the same names.

        Raises:
            DBAPIError: the database refused.
        """
        plan = statement.plan(rows[0])
        try:
            _raw(self.connection).executemany(plan.sql, [plan.bound(row) for row in rows])
        except sqlite3.Error as error:
            raise _wrapped(plan.sql, error) from error

    def after_commit(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` on the event loop once the commit is durable; it must not raise."""
        self._hooks.append(hook)

    @property
    def hooks(self) -> list[Callable[[], None]]:
        """The hooks registered so far."""
        return self._hooks


class _Job(Generic[T]):
    def __init__(self, work: Callable[[Tx], T]) -> None:
        self.work = work
        # Work runs on another thread in the context of whoever asked for it.
        self.context = contextvars.copy_context()
        self.done: Future[tuple[T, list[Callable[[], None]]]] = Future()


class Database:
    """A database with one writer and several readers.

    Use :meth:`open`; call :meth:`close` at the end.
    """

    def __init__(self, engine: Engine, readers: Engine) -> None:
        self.engine = engine
        self._readers = readers
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._wanted: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._here: Connection | None = None
        self._writer = threading.Thread(target=self._write_loop, name="db-writer", daemon=True)
        self._threads = [
            threading.Thread(target=self._read_loop, name=f"db-reader-{n}", daemon=True)
            for n in range(READERS)
        ]
        for thread in (self._writer, *self._threads):
            thread.start()

    @classmethod
    def open(cls, url: str) -> "Database":
        """Open a database.

        Args:
            url: ``sqlite:///path/to/file.db``; the file is created when absent.

        Raises:
            OperatorError: the file cannot be opened or is no database.
        """
        prefix = "sqlite:///"
        if not url.startswith(prefix):
            raise OperatorError(f"cannot use database {url.split(':')[0]!r}", "use sqlite:///PATH")
        path = Path(url.removeprefix(prefix))
        engine = _sqlite_engine(path, readers=False)
        try:
            with engine.connect() as probe:
                probe.exec_driver_sql("SELECT count(*) FROM sqlite_master")
        except (DBAPIError, sqlite3.Error) as error:
            raise OperatorError(
                f"cannot open the database {path} ({getattr(error, 'orig', error)})",
                "check the directory, its owner and free space",
            ) from error
        return cls(engine, _sqlite_engine(path, readers=True))

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run ``work`` in a read-write transaction and return its result once it is durable.

        Raises:
            Unavailable: the database refused the commit (disk full, I/O error); nothing happened.
            Exception: whatever ``work`` raised; its changes are rolled back.
        """
        job = _Job(work)
        self._jobs.put(job)
        result, hooks = await _wait(job.done)
        for hook in hooks:
            hook()
        return result

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run ``work`` in a read-only snapshot and return its result."""
        job = _Job(work)
        self._wanted.put(job)
        result, _ = await _wait(job.done)
        return result

    async def glance(self, work: Callable[[Tx], T]) -> T:
        """Like :meth:`read`, for a row or two found by a unique index: on the loop's own thread.

        Going to a thread and back costs more than such a look-up. It never waits for anybody: when
        the file is locked, it goes to a thread after all.
        """
        if self._here is None:
            self._here = self._readers.connect()
            _raw(self._here).execute("PRAGMA busy_timeout=0")
        try:
            with self._here.begin():
                return work(Tx(self._here))
        except DBAPIError:
            return await self.read(work)

    async def page(self, work: Callable[[Tx], T], rows: int) -> T:
        """Read a page that an index holds in its order: a short one like :meth:`glance`.

        Args:
            work: what reads it.
            rows: how many it has at most.
        """
        return await (self.glance(work) if rows <= GLANCE_ROWS else self.read(work))

    def close(self) -> None:
        """Finish the waiting transactions and release the file."""
        self._jobs.put(None)
        for _ in self._threads:
            self._wanted.put(None)
        for thread in (self._writer, *self._threads):
            thread.join()
        if self._here is not None:
            self._here.close()
        self.engine.dispose()
        self._readers.dispose()

    def _read_loop(self) -> None:
        while self._read_with_one_connection():
            pass

    def _read_with_one_connection(self) -> bool:
        """Serve reads until the end, or until the database fails; return whether to go on."""
        with self._readers.connect() as connection:
            while (job := self._wanted.get()) is not None:
                try:
                    with connection.begin():
                        result = job.context.run(job.work, Tx(connection))
                    job.done.set_result((result, []))
                except BaseException as error:  # noqa: BLE001  handed to the caller as it is
                    job.done.set_exception(error)
                    if isinstance(error, DBAPIError):
                        return True
        return False

    def _write_loop(self) -> None:
        with self.engine.connect() as connection:
            while (job := self._jobs.get()) is not None:
                group = [job]
                while len(group) < GROUP_LIMIT:
                    try:
                        more = self._jobs.get_nowait()
                    except queue.Empty:
                        break
                    if more is None:
                        self._jobs.put(None)
                        break
                    group.append(more)
                self._commit_together(connection, group)

    def _commit_together(self, connection: Connection, group: list[_Job[Any]]) -> None:
        outcomes: list[tuple[_Job[Any], Any, list[Callable[[], None]]]] = []
        try:
            with connection.begin():
                for job in group:
                    tx = Tx(connection)
                    try:
                        with _savepoint(connection):
                            outcomes.append((job, job.context.run(job.work, tx), tx.hooks))
                    except _LostTransaction:
                        raise
                    except BaseException as error:  # noqa: BLE001  handed to the caller as it is
                        job.done.set_exception(error)
        except BaseException as error:  # noqa: BLE001  every waiting caller must learn of it
            log.error("commit_failed", error=repr(error))
            for job in group:
                if not job.done.done():
                    failure = Unavailable("the database refused the write; nothing was changed")
                    failure.__cause__ = error
                    job.done.set_exception(failure)
            return
        for job, result, hooks in outcomes:
            job.done.set_result((result, hooks))


class _LostTransaction(Exception):
    """The engine rolled the whole transaction back by itself (disk full, I/O error)."""


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    raw = _raw(connection)
    raw.execute("SAVEPOINT one")
    try:
        yield
    except BaseException as error:
        if not raw.in_transaction:
            raise _LostTransaction from error
        raw.execute("ROLLBACK TO one")
        raw.execute("RELEASE one")
        raise
    raw.execute("RELEASE one")


def _wrapped(sql: str, error: sqlite3.Error) -> DBAPIError:
    """Return a driver's error as SQLAlchemy raises it, without parameters, which may be secret."""
    made = DBAPIError.instance(
        sql, None, error, sqlite3.Error, hide_parameters=True, dialect=DIALECT
    )
    return cast("DBAPIError", made)


def _raw(connection: Connection) -> sqlite3.Connection:
    """Return the driver's connection: what frames transactions needs nothing of SQLAlchemy."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


async def _wait(future: "Future[T]") -> T:
    """Wait for a thread's future without losing it when the waiting task is cancelled."""
    event = anyio.Event()
    loop = asyncio.get_running_loop()

    def wake(_: object) -> None:
        # Not anyio.from_thread: that would keep the writer waiting until the loop has woken.
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            log.debug("loop_gone")

    future.add_done_callback(wake)
    # A transaction that was handed over runs to its end; abandoning it would hide its outcome.
    with anyio.CancelScope(shield=True):
        await event.wait()
    return future.result()


def _sqlite_engine(path: Path, *, readers: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
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
        _raw(connection).execute("BEGIN" if readers else "BEGIN IMMEDIATE")

    return engine
