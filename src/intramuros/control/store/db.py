"""The database of a server: the way in for everybody who reads or writes.

A store function is synchronous and gets a :class:`Tx`; a whole transaction costs one hop to a
database thread. On SQLite one thread writes, and commits what waits together. On PostgreSQL a
transaction is either alone among all writers of all processes, as on SQLite, or names the keys that
it works on and runs beside others (decision 28).
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from intramuros.control.store import arrival
from intramuros.control.store.drivers import STATEMENT_S, Backend, Elsewhere, Keys, raw
from intramuros.control.store.sqlite import PREFIX, Sqlite
from intramuros.control.store.transactions import Health, Job, Queue, Reader, Writer, landed
from intramuros.control.store.tx import Tx
from intramuros.kernel.errors import OperatorError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from intramuros.control.store.standbys import Standbys

T = TypeVar("T")

__all__ = ["Database", "Tx"]

# One commit takes at most this many transactions: bounds the time that the first one waits.
GROUP_LIMIT: Final = 64
# Transactions that hold keys keep others from those until their commit.
LANE_LIMIT: Final = 8
# What is read on the loop's thread takes less time than a thread's turn: a page of most lists.
GLANCE_ROWS: Final = 20


class Database:
    """A database with its writers and readers.

    Use :meth:`open`; call :meth:`close` at the end.
    """

    def __init__(self, backend: Backend, standbys: "Standbys | None" = None) -> None:
        self.backend = backend
        self.standbys = standbys
        self._alone: Queue = queue.SimpleQueue()
        self._keyed: Queue = queue.SimpleQueue() if backend.lanes else self._alone
        self._wanted: Queue = queue.SimpleQueue()
        self._here: Connection | None = None
        self._health = Health()
        self._writer = Writer(
            backend, self._alone, alone=True, limit=GROUP_LIMIT, health=self._health
        )
        self._threads = [
            threading.Thread(target=self._writer.run, name="db-writer", daemon=True),
            *(
                threading.Thread(
                    target=Writer(
                        backend, self._keyed, alone=False, limit=LANE_LIMIT, health=self._health
                    ).run,
                    name=f"db-lane-{n}",
                    daemon=True,
                )
                for n in range(backend.lanes)
            ),
            *(
                threading.Thread(
                    target=Reader(backend, self._wanted).run, name=f"db-reader-{n}", daemon=True
                )
                for n in range(backend.reading)
            ),
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    def open(
        cls, url: str, *, statement_s: float = STATEMENT_S, replicas: Sequence[str] = ()
    ) -> "Database":
        """Open a database.

        Args:
            url: ``sqlite:///path/to/file.db``; the file is created when absent. Or
                ``postgresql://user@host/name``, which may hold a password and is never shown.
            statement_s: seconds that a statement may take on PostgreSQL; 0 for as long as it takes.
            replicas: URLs of its read replicas on PostgreSQL; they need not be up.

        Raises:
            OperatorError: it cannot be opened or is no database.
        """
        scheme = url.split(":")[0]
        if url.startswith(PREFIX):
            if replicas:
                raise OperatorError(
                    "a SQLite database has no replicas", "leave --database-replica away"
                )
            return cls(Sqlite.open(url))
        if scheme in ("postgresql", "postgres"):
            return cls(*_postgres(url, statement_s, replicas))
        raise OperatorError(
            f"cannot use database {scheme!r}", "use sqlite:///PATH or postgresql://HOST/NAME"
        )

    @property
    def refusing(self) -> bool:
        """Whether the last write was refused for the database's sake: a full disk, say."""
        return self._health.refusing

    @property
    def engine(self) -> Engine:
        """What makes connections that write."""
        return self.backend.engine

    async def write(self, work: Callable[[Tx], T], keys: Keys | None = None) -> T:
        """Run ``work`` in a read-write transaction and return its result once it is durable.

        It runs once, or again from the start when it met another transaction: it changes nothing
        but the database.

        Args:
            keys: what it works on (sessions, say), if it may run beside others that name none of
                them; whatever many of those touch comes after :meth:`Tx.take_turn`. Without, it is
                alone among all writers of the database.

        Raises:
            Unavailable: the database refused the commit (disk full, I/O error); nothing happened.
            Exception: whatever ``work`` raised; its changes are rolled back.
        """
        job = Job(work, keys)
        (self._alone if keys is None else self._keyed).put(job)
        return await _answer(job)

    async def jot(self, work: Callable[[Tx], T], keys: Keys | None = None) -> T:
        """Like :meth:`write`, for a few rows that are found by an index.

        On SQLite, when nobody else writes, that is done on the loop's own thread; only for the disk
        does another thread wait.
        """
        if not self.backend.looks_here:
            return await self.write(work, keys)
        job = Job(work)
        if not self._writer.start(job):
            self._alone.put(job)
        return await _answer(job)

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run ``work`` in a read-only snapshot and return its result."""
        job = Job(work)
        self._wanted.put(job)
        result, _ = await _wait(job.done)
        return result

    async def glance(self, work: Callable[[Tx], T]) -> T:
        """Like :meth:`read`, for a row or two found by a unique index.

        On SQLite that is done on the loop's own thread: going to another and back costs more than
        such a look-up. It never waits for anybody: when the file is locked, it goes to a thread
        after all.
        """
        if not self.backend.looks_here:
            return await self.read(work)
        if self._here is None:
            self._here = self.backend.readers.connect()
            raw(self._here).execute("PRAGMA busy_timeout=0")
        try:
            with self.backend.snapshot(self._here):
                return work(Tx(self._here))
        except DBAPIError:
            return await self.read(work)

    async def page(self, work: Callable[[Tx], T], rows: int | None = None) -> T:
        """Read a list: on a replica, if one has all that was written when the request came.

        Without replicas it is a :meth:`read`, or, on SQLite, a :meth:`glance` if it is short.

        Args:
            work: what reads it, and reads alone.
            rows: how many it has at most, if an index holds them in its order; None otherwise.
        """
        if self.standbys is None:
            short = rows is not None and rows <= GLANCE_ROWS
            return await (self.glance(work) if short else self.read(work))
        if self.standbys.any_ready():
            position = await self._position()
            if position is not None:
                try:
                    return await self.standbys.read(work, position)
                except Elsewhere:
                    pass  # it is counted and, if somebody should know, logged there
        return await self.read(work)

    async def _position(self) -> arrival.Position | None:
        """Return where the database stood since the request came that is served here."""
        request = arrival.current()
        if request is not None and request.position is not None:
            return request.position
        return await self.read(lambda tx: tx.connection.info.get(arrival.POSITION))

    def close(self) -> None:
        """Finish the waiting transactions and release the database."""
        if self.standbys is not None:
            self.standbys.close()
        self._alone.put(None)
        for _ in range(self.backend.lanes):
            self._keyed.put(None)
        for _ in range(self.backend.reading):
            self._wanted.put(None)
        for thread in self._threads:
            thread.join()
        if self._here is not None:
            self._here.close()
        self.backend.engine.dispose()
        self.backend.readers.dispose()


def _postgres(
    url: str, statement_s: float, replicas: Sequence[str]
) -> "tuple[Backend, Standbys | None]":
    try:
        # Not at the top: a server on SQLite needs nothing of it.
        from intramuros.control.store.postgres import Postgres
        from intramuros.control.store.standbys import Standbys
    except ImportError as error:
        raise OperatorError(
            "PostgreSQL needs the package psycopg", "install intramuros[postgres]"
        ) from error
    backend = Postgres.open(url, statement_s, positions=bool(replicas))
    return backend, Standbys(replicas, statement_s) if replicas else None


async def _answer(job: Job[T]) -> T:
    """Wait for a transaction's end, do what was to be done after it, and return what it gave."""
    try:
        result, hooks = await _wait(job.done)
    finally:
        arrival.forget()
    for hook in hooks:
        hook()
    return result


async def _wait(future: "Future[T]") -> T:
    """Wait for a thread's future without losing it when the waiting task is cancelled."""
    if future.done():
        return future.result()
    event = landed(future)
    # A transaction that was handed over runs to its end; abandoning it would hide its outcome.
    with anyio.CancelScope(shield=True):
        await event.wait()
    return future.result()
