"""One read replica of a PostgreSQL database: lists read there what the primary need not serve.

A replica replays what the primary wrote, some time later. A list is read there only after the
replica has replayed all that was committed when the request came, on the same history; if it has
not in a few milliseconds, or fails in any way, the caller is told to read on the primary instead. A
replica that fails is left alone for a while and tried by nobody's request but by one of its own.

The position is looked up before the transaction that reads, whose snapshot is therefore no older. A
server that was started anew, or another one behind the same address, may be behind that again: so
the transaction must run on a server that was started at the same moment, and is still a replica.
"""

import os
import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeVar

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from intramuros.control.store import standing
from intramuros.control.store.arrival import Position
from intramuros.control.store.breaker import Breaker
from intramuros.control.store.drivers import Elsewhere, raw
from intramuros.control.store.postgres import Postgres, driver_error, shown
from intramuros.control.store.postgres_begin import TOLD
from intramuros.control.store.tx import Tx
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import SystemClock

T = TypeVar("T")

log = logger("store")

# Connections to one replica, as many as read on the primary.
READERS: Final = 4
# Lists that wait for one of them; more read on the primary.
WAITING_LIMIT: Final = 16
# A list waits this long for the replica to catch up, in seconds, and looks after each of these.
PAUSES_S: Final = (0.001, 0.002, 0.004, 0.008)
# Lists do not wait again for a replica that was behind, for so many seconds.
BEHIND_S: Final = 0.2
# What takes longer than this to begin is not waited for: the server stands still.
PROMPT_S: Final = 1.0
# A list that takes longer is cut off, and read on the primary with the limit that holds there.
LONGEST_S: Final = 5.0
# What is known of a server is looked up again after so many seconds.
REVIEW_S: Final = 1.0
# How often it is logged that a replica is behind, in seconds.
REMARK_S: Final = 60.0


class Line:
    """A connection as seen by those who may have to end what another thread waits for."""

    def __init__(self, connection: Connection) -> None:
        self._here = raw(connection)
        self._inode = os.fstat(self._here.fileno()).st_ino

    def hang_up(self) -> None:
        """Have whoever waits for the server's answer get an error."""
        try:
            with socket.socket(fileno=os.dup(self._here.fileno())) as there:
                # Closed meanwhile, the number may be somebody else's.
                if os.fstat(there.fileno()).st_ino == self._inode:
                    there.shutdown(socket.SHUT_RDWR)
        except (OSError, psycopg.Error):
            return


@dataclass(eq=False)
class Ask(Generic[T]):
    """A list that is to be read, or, without work, an attempt to reach the replica.

    Args:
        work: what reads it.
        position: what the replica must have replayed.
    """

    work: Callable[[Tx], T] | None = None
    position: Position | None = None
    context: Context = field(default_factory=copy_context)
    done: "Future[T]" = field(default_factory=Future)
    taken: bool = False
    begun: bool = False
    """Whether the replica has answered, and reads."""
    dropped: threading.Event = field(default_factory=threading.Event)
    """Nobody waits for it any more."""
    at_s: float = 0.0
    line: Line | None = None
    """The connection that it uses now."""


class Standby:
    """A replica with its connections, and what is known of it.

    Args:
        url: as for ``Postgres.open``; its role needs no right to write.
        statement_s: seconds that a statement may take; 0 for as long as it takes.
    """

    def __init__(self, url: str, statement_s: float) -> None:
        limit_s = min(statement_s, LONGEST_S) if statement_s else LONGEST_S
        self._backend = Postgres.standby(url, limit_s)
        self.name: Final = shown(url)
        self._clock = SystemClock()
        self._wanted: queue.SimpleQueue[Ask[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._breaker = Breaker()
        self._attempt: Ask[Any] | None = None
        self._latest: Position | None = None
        self._behind_s = self._remark_s = float("-inf")
        self.waiting = 0
        self.outcomes: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run, name=f"db-replica-{n}", daemon=True)
            for n in range(READERS)
        ]
        for thread in self._threads:
            thread.start()
        self.tend()

    @property
    def usable(self) -> bool:
        """Whether lists are read here now."""
        return self._breaker.closed

    def ready(self) -> bool:
        """Tell whether a list is worth a try here, and see to it that what failed is tried."""
        if not self._breaker.closed:
            self.tend()
            return False
        return self._now_s() >= self._behind_s

    def tend(self) -> None:
        """Try a replica that failed, when its time has come; never waits."""
        with self._lock:
            now_s, attempt = self._now_s(), self._attempt
            if attempt is not None and now_s - attempt.at_s > PROMPT_S:
                self._cut(attempt)
            if not self._breaker.due(now_s):
                return
            self._attempt = attempt = Ask(position=self._latest, at_s=now_s)
        self._wanted.put(attempt)

    def put(self, ask: Ask[Any]) -> None:
        """Have a list read.

        Raises:
            Elsewhere: too many wait.
        """
        with self._lock:
            if self.waiting >= WAITING_LIMIT:
                raise Elsewhere(standing.BUSY)
            self.waiting += 1
            self._latest = ask.position
        self._wanted.put(ask)

    def drop(self, ask: Ask[Any]) -> str:
        """Wait no longer for a list, and take its thread back; return why."""
        ask.dropped.set()
        with self._lock:
            self._cut(ask)
        reason = standing.SLOW if ask.taken else standing.BUSY
        self.count(reason, Elsewhere(reason))
        return reason

    def count(self, outcome: str, error: Elsewhere | None = None) -> None:
        """Count how a list ended, and know from it how the replica is."""
        with self._lock:
            self.outcomes[outcome] += 1
        if error is not None:
            self._learn(error)

    def close(self) -> None:
        """Release the connections."""
        for _ in self._threads:
            self._wanted.put(None)
        for thread in self._threads:
            # One whose server stands still ends with the process.
            thread.join(PROMPT_S)
        self._backend.readers.dispose()

    def _learn(self, error: Elsewhere) -> None:
        """Know how the replica is from why a list was not read there."""
        now_s = self._now_s()
        if error.reason == standing.BEHIND:
            self._lags(now_s)
        if error.reason in (standing.BEHIND, standing.CONFLICT, standing.BUSY, standing.RESTARTED):
            return
        with self._lock:
            news = self._breaker.fails(now_s, long=error.reason in standing.LASTING)
        if news:
            fix = standing.FIXES.get(error.reason, "lists read on the primary until it is back")
            log.warning(
                "replica_away", replica=self.name, why=error.reason, error=error.detail, fix=fix
            )

    def _lags(self, now_s: float) -> None:
        with self._lock:
            self._behind_s = now_s + BEHIND_S
            news = now_s >= self._remark_s
            if news:
                self._remark_s = now_s + REMARK_S
        if news:
            log.warning("replica_behind", replica=self.name)

    def _cut(self, ask: Ask[Any]) -> None:
        """End the conversation on which an ask hangs, under our lock."""
        if ask.line is not None:
            ask.line.hang_up()
            ask.line = None

    def _now_s(self) -> float:
        return self._clock.monotonic()

    def _run(self) -> None:
        """Serve asks, on one connection, until the end."""
        reader = _Reader(self._backend)
        while (ask := self._wanted.get()) is not None:
            if ask.work is None:
                self._try(reader, ask)
                continue
            ask.taken = True
            try:
                if not ask.dropped.is_set():
                    self._serve(reader, ask)
            finally:
                with self._lock:
                    self.waiting -= 1
        reader.drop()

    def _serve(self, reader: "_Reader", ask: Ask[Any]) -> None:
        kept = reader.kept
        try:
            self._held(reader, ask, lambda: reader.read(ask, partial(self._answer, ask)))
        except BaseException as error:  # noqa: BLE001  handed to whoever waits
            told = reader.told(error)
            if ask.dropped.is_set() or ask.done.done():
                return
            if kept and not reader.kept and not ask.begun:
                # Of a server that was away meanwhile: all but the one that tried are so.
                self._serve(reader, ask)
                return
            if isinstance(told, Elsewhere):
                self.count(told.reason, told)
            ask.done.set_exception(told)

    def _answer(self, ask: Ask[T], result: T) -> None:
        if not ask.dropped.is_set():
            self.count(standing.SERVED)
            ask.done.set_result(result)

    def _try(self, reader: "_Reader", ask: Ask[Any]) -> None:
        """Reach a replica that failed, and use it again if it answers."""
        try:
            self._held(reader, ask, lambda: reader.reach(ask.position))
        except BaseException as error:  # noqa: BLE001  told to the log
            told = reader.told(error)
            with self._lock:
                self._attempt = None
            unforeseen = Elsewhere(standing.AWAY, type(told).__name__)
            self._learn(told if isinstance(told, Elsewhere) else unforeseen)
            return
        with self._lock:
            self._attempt = None
            news = self._breaker.works()
        if news:
            log.info("replica_serves", replica=self.name)

    def _held(self, reader: "_Reader", ask: Ask[Any], act: Callable[[], None]) -> None:
        """Act on a connection that may be cut from elsewhere meanwhile."""
        line = Line(reader.connected())
        with self._lock:
            ask.line = line
        try:
            act()
        finally:
            with self._lock:
                ask.line = None


class _Reader:
    """One connection to a replica, and what was known of its server last."""

    def __init__(self, backend: Postgres) -> None:
        self._backend = backend
        self._connection: Connection | None = None
        self._known: standing.Standing | None = None
        self._clock = SystemClock()
        self._looked_s = float("-inf")

    @property
    def kept(self) -> bool:
        """Whether there is a connection from before."""
        return self._connection is not None

    def connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._backend.readers.connect()
            self._known = None
        return self._connection

    def reach(self, wanted: Position | None) -> None:
        """See that it answers, is a replica, of the right server, and lets us read.

        Raises:
            Elsewhere: it does not.
        """
        found = self._look()
        if not found.replica:
            raise Elsewhere(standing.PROMOTED)
        if wanted is not None:
            found.check(wanted)
        standing.check_rights(self.connected())

    def read(self, ask: Ask[T], answer: Callable[[T], None]) -> None:
        """Read a list once the replica has all that it must have.

        Args:
            ask: the list.
            answer: tells it to whoever waits, who need not wait for the end of the transaction.

        Raises:
            Elsewhere: it has not, or is not what it should be.
        """
        assert ask.position is not None and ask.work is not None
        connection = self.connected()
        known = self._caught_up(ask, ask.position)
        with self._backend.snapshot(connection):
            replica, started = connection.info[TOLD]
            if replica != "t" or started != known.started:
                self._known = None
                raise Elsewhere(standing.RESTARTED if replica == "t" else standing.PROMOTED)
            ask.begun = True
            answer(ask.context.run(ask.work, Tx(connection)))

    def _caught_up(self, ask: Ask[Any], wanted: Position) -> standing.Standing:
        known = self._known
        if known is not None and known.has(wanted) and not self._stale():
            return known
        for pause_s in (*PAUSES_S, None):
            known = self._look()
            known.check(wanted)
            if known.has(wanted):
                return known
            if pause_s is None or ask.dropped.wait(pause_s):
                break
        raise Elsewhere(standing.BEHIND)

    def _look(self) -> standing.Standing:
        self._looked_s = self._clock.monotonic()
        self._known = standing.look(self.connected())
        return self._known

    def _stale(self) -> bool:
        return self._clock.monotonic() - self._looked_s > REVIEW_S

    def told(self, error: BaseException) -> BaseException:
        """Return what whoever waits is told of an error: what the work itself raised, or where to
        read instead."""
        found = driver_error(error)
        if isinstance(error, DBAPIError | psycopg.Error) or self._gone():
            self.drop()
        if found is None:
            return error
        made = Elsewhere(standing.reason_of(found), type(found).__name__)
        made.__cause__ = error
        return made

    def _gone(self) -> bool:
        return self._connection is not None and self._backend.lost(self._connection)

    def drop(self) -> None:
        """Let go of the connection; the next list gets another."""
        self._known = None
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
