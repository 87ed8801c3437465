"""Threads that run transactions: who takes which, together with whom, and how often.

A :class:`Writer` takes what waits in its queue, runs each job apart in one transaction and commits
them together, so that many callers share one wait for the disk; nobody is answered before it. What
only met another transaction is run again, alone. A :class:`Reader` runs one job after the other.
"""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import anyio
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from intramuros.control.store import arrival
from intramuros.control.store.drivers import Backend, Keys, LostTransaction, waited
from intramuros.control.store.tx import Tx
from intramuros.kernel.errors import Unavailable
from intramuros.kernel.remarks import Remarks
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import SystemClock

T = TypeVar("T")

log = logger("store")

# Work that met others so often meets something else.
ATTEMPTS: Final = 5
# That the database takes nothing is logged so often, in seconds.
REMARK_S: Final = 10.0

Hooks = list[Callable[[], None]]


class Job(Generic[T]):
    """Work that waits for a thread, and what becomes of it."""

    def __init__(self, work: Callable[[Tx], T], keys: Keys | None = None) -> None:
        self.work = work
        self.keys = keys
        # Work runs on another thread in the context of whoever asked for it.
        self.context = contextvars.copy_context()
        self.done: Future[tuple[T, Hooks]] = Future()
        self._told: Callable[[], None] | None = None

    @property
    def over(self) -> bool:
        """Tell whether it is known what became of it."""
        return self._told is not None

    def accept(self, result: T, hooks: Hooks) -> None:
        """Say that it is durable, unless something else was said before."""
        self._told = self._told or (lambda: self.done.set_result((result, hooks)))

    def refuse(self, error: BaseException) -> None:
        """Say that it failed, unless something else was said before."""
        self._told = self._told or (lambda: self.done.set_exception(error))

    def tell(self) -> None:
        """Tell whoever waits what was said; nothing is done with it afterwards."""
        if self._told is not None and not self.done.done():
            self._told()


Queue = queue.SimpleQueue[Job[Any] | None]
_Outcome = tuple[Job[Any], Any, Hooks]


def landed(future: Future[Any]) -> anyio.Event:
    """Return what is set on this loop once a thread's future is done."""
    event = anyio.Event()
    loop = asyncio.get_running_loop()

    def wake(_: object) -> None:
        # Not anyio.from_thread: that would keep the thread waiting until the loop has woken.
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            log.debug("loop_gone")

    future.add_done_callback(wake)
    return event


@dataclass
class Health:
    """What all writers of a database know of it."""

    refusing: bool = False
    """Whether the last transaction was refused as a whole, as when the disk is full."""
    remarks: Remarks = field(default_factory=lambda: Remarks(REMARK_S))


class _Again(Exception):
    """Nothing was written, and the same may succeed alone."""


class Writer:
    """Runs transactions that write, on a thread of its own.

    Args:
        alone: whether its transactions exclude all others.
        limit: one commit takes at most so many; it bounds the time that the first one waits.
        health: what it shares with others of the database.
    """

    def __init__(
        self,
        backend: Backend,
        jobs: Queue,
        *,
        alone: bool,
        limit: int,
        health: Health | None = None,
    ) -> None:
        self._backend = backend
        self._jobs = jobs
        self._alone = alone
        self._limit = limit
        self._health = health or Health()
        self._connection: Connection | None = None
        # Whoever has it may use the connection; what was started on it waits for its commit.
        self._own = threading.Lock()
        self._started: _Outcome | None = None

    def run(self) -> None:
        """Serve the queue until its end."""
        while (job := self._jobs.get()) is not None:
            group = self._group(job)
            with self._own:
                if self._started is not None:
                    group.append(self._started[0])
                self._settle(group)
            # Who is told may come back at once, and finds that nobody else writes.
            for each in group:
                each.tell()
        self._drop()

    def start(self, job: Job[Any]) -> bool:
        """Run a job on the caller's own thread if nobody else writes, and leave its commit to ours.

        Taking turns with another thread for the interpreter takes longer than changing a few rows;
        only the disk has to be waited for.

        Returns:
            whether it was run; if not, nothing happened and it belongs into the queue.
        """
        if not self._own.acquire(blocking=False):
            return False
        try:
            connection = self._connection
            if connection is None or self._started is not None or not self._jobs.empty():
                return False
            if not self._backend.begin_now(connection):
                return False
            tx = Tx(connection)
            try:
                with self._backend.apart(connection, only=True):
                    self._started = job, job.work(tx), tx.hooks
            except BaseException as error:  # noqa: BLE001  handed to the caller as it is
                self._backend.roll_back(connection)
                lost = isinstance(error, LostTransaction)
                if lost:
                    self._refused(error)
                job.refuse(self._unavailable(error) if lost else self._backend.verdict(error))
        finally:
            self._own.release()
        if job.over:
            job.tell()
        else:
            self._jobs.put(job)
        return True

    def _group(self, first: Job[Any]) -> list[Job[Any]]:
        group = [first]
        while len(group) < self._limit:
            try:
                more = self._jobs.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._jobs.put(None)
                break
            group.append(more)
        return group

    def _settle(self, group: list[Job[Any]]) -> None:
        """Run a group; when it met others, run each of it alone."""
        try:
            self._commit(group)
        except _Again:
            for job in group:
                self._retry(job)

    def _retry(self, job: Job[Any]) -> None:
        for _ in range(ATTEMPTS):
            try:
                return self._commit([job])
            except _Again as again:
                log.info("transaction_again", error=repr(again.__cause__))
        return job.refuse(Unavailable("the database is too busy; nothing was changed"))

    def _commit(self, group: list[Job[Any]]) -> None:
        """Run jobs in one transaction and say what became of them.

        Raises:
            _Again: nobody is answered and nothing happened; try each alone.
        """
        failed: list[tuple[Job[Any], BaseException]] = []
        outcomes, waiting = self._take_up(group)
        if not outcomes and not waiting:
            return
        only = not outcomes and len(waiting) == 1
        try:
            connection = self._connected()
            with self._backend.transaction(connection, self._keys(group)):
                for job in waiting:
                    try:
                        outcomes.append(self._attempt(connection, job, only=only))
                    except (_Again, LostTransaction):
                        raise
                    except BaseException as error:
                        failed.append((job, error))
                        if only:
                            raise
        except _Again:
            self._check()
            raise
        except BaseException as error:  # noqa: BLE001  every waiting caller must learn of it
            self._refuse(group, failed, error)
        else:
            self._health.refusing = False
        self._tell_failed(failed)
        for job, result, hooks in outcomes:
            job.accept(result, hooks)

    def _tell_failed(self, failed: Sequence[tuple[Job[Any], BaseException]]) -> None:
        for job, raised in failed:
            told = self._backend.verdict(raised)
            if told is not raised and type(told) is Unavailable:
                self._refused(raised)
            job.refuse(told)

    def _take_up(self, group: Sequence[Job[Any]]) -> tuple[list[_Outcome], list[Job[Any]]]:
        """Return what was started and waits for its commit, and what is still to be run."""
        started, self._started = self._started, None
        # What was started goes into the queue too, and may have been committed with a group before.
        waiting = [job for job in group if not job.over]
        if started is None:
            return [], waiting
        return [started], [job for job in waiting if job is not started[0]]

    def _attempt(self, connection: Connection, job: Job[Any], *, only: bool) -> _Outcome:
        tx = Tx(connection, None if self._alone else self._backend.take_turn)
        try:
            with self._backend.apart(connection, only=only):
                return job, job.context.run(job.work, tx), tx.hooks
        except BaseException as error:
            if self._backend.passing(error):
                raise _Again from error
            raise

    def _refuse(
        self,
        group: Sequence[Job[Any]],
        failed: Sequence[tuple[Job[Any], BaseException]],
        error: BaseException,
    ) -> None:
        """Answer everybody after a transaction that failed as a whole.

        Raises:
            _Again: it may succeed.
        """
        self._check()
        if any(error is one for _, one in failed):
            return
        told = self._backend.verdict(error)
        if len(group) == 1 and waited(error) and not isinstance(told, Unavailable):
            # What it left for later (Tx.later) failed; the commit is not to blame.
            group[0].refuse(told)
            return
        if self._backend.passing(error):
            raise _Again from error
        self._refused(error)
        for job in group:
            job.refuse(self._unavailable(error))

    def _refused(self, error: BaseException) -> None:
        """Know that the database takes nothing, and log it now and then."""
        self._health.refusing = True
        cause = error.__cause__ or error
        silent = self._health.remarks.due(type(cause).__name__, SystemClock().monotonic())
        if silent is not None:
            log.error("commit_failed", error=repr(cause), alike_before=silent)

    def _unavailable(self, error: BaseException) -> Unavailable:
        """Return what callers learn of a transaction that the database refused."""
        told = self._backend.verdict(error)
        if isinstance(told, Unavailable):
            return told
        failure = Unavailable("the database refused the write; nothing was changed")
        failure.__cause__ = error
        return failure

    def _keys(self, group: Sequence[Job[Any]]) -> Keys | None:
        if self._alone:
            return None
        return sorted({key for job in group for key in job.keys or ()})

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._backend.engine.connect()
        return self._connection

    def _check(self) -> None:
        """Let go of a connection that is lost, so that the next transaction gets another."""
        if self._connection is not None and self._backend.lost(self._connection):
            self._connection.invalidate()
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Reader:
    """Runs reads, each in a snapshot, on a thread of its own."""

    def __init__(self, backend: Backend, jobs: Queue) -> None:
        self._backend = backend
        self._jobs = jobs
        self._connection: Connection | None = None

    def run(self) -> None:
        """Serve the queue until its end."""
        while (job := self._jobs.get()) is not None:
            error = self._serve(job)
            if error is not None and self._backend.passing(error):
                error = self._serve(job)
            if error is not None:
                job.refuse(self._told(error))
            job.tell()
        self._drop()

    def _told(self, error: BaseException) -> BaseException:
        """Return what the caller is told of what failed, twice if it might pass."""
        told = self._backend.verdict(error)
        if told is error and self._backend.passing(error):
            told = Unavailable("the database is too busy")
            told.__cause__ = error
        return told

    def _serve(self, job: Job[Any]) -> BaseException | None:
        """Run a job and say what it gave; return what it raised instead."""
        try:
            if self._connection is None:
                self._connection = self._backend.readers.connect()
            with self._backend.snapshot(self._connection):
                arrival.note(job.context, self._connection.info.get(arrival.POSITION))
                job.accept(job.context.run(job.work, Tx(self._connection)), [])
                job.tell()  # whoever waits need not wait for the end of the snapshot
        except BaseException as error:  # noqa: BLE001  handed to the caller as it is
            if isinstance(error, DBAPIError) or self._gone():
                self._drop()
            return None if job.over else error
        return None

    def _gone(self) -> bool:
        """Tell whether the connection was lost, also where the engine was not told of it."""
        return self._connection is not None and self._backend.lost(self._connection)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
