"""The log's partitions on PostgreSQL: which there are, and what is done to them.

Ids of sessions begin with the time at which they were made and are compared by their bytes, so a
range of ids is a span of time. The partitions' ranges follow each other from the lowest id to the
highest without a hole, in calendar months of UTC; the last one is of everything from its month on,
and is cut before that month begins, so that no row ever finds no place. A database that was there
before has its whole log in the first. One whose sessions are all gone is detached and dropped, and
an empty one takes its range.

Each change is one transaction that nobody else writes beside, or a step that may be done again;
whoever does it looks first whether it is done. Readers are kept out for milliseconds, and nobody is
kept waiting behind a reader that takes long: then it is done another time.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from intramuros.control.store.drivers import raw
from intramuros.control.store.tables import removed_logs, sessions
from intramuros.kernel.errors import Unavailable
from intramuros.kernel.ids import ENTROPY_BYTES, make_id
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import from_micros, to_micros

log = logger("store")

# How long before it begins a month gets a partition of its own.
AHEAD: Final = timedelta(days=7)
# A partition is dropped so long after its last session was deleted: longer than anybody takes from
# the snapshot that saw it to the first look at the log (store/snapshots.py).
SETTLED: Final = timedelta(minutes=10)

_PREFIX: Final = "sesn_"
_TIME_CHARS: Final = 10
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CUT: Final = "events_until"
_BOUNDS: Final = re.compile(
    r"FOR VALUES FROM \((?:MINVALUE|'([^']*)')\) TO \((?:MAXVALUE|'([^']*)')\)"
)
_QUOTED: Final = re.compile(r"'([^']*)'")
_PARTITIONS: Final = """
    SELECT child.relname, pg_get_expr(child.relpartbound, child.oid), pg_relation_size(child.oid),
        pg_total_relation_size(child.oid), cut.convalidated, pg_get_constraintdef(cut.oid)
    FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
    LEFT JOIN pg_constraint cut ON cut.conrelid = child.oid AND cut.conname = 'events_until'
    WHERE inhparent = 'events'::regclass
"""
_DIVIDED: Final = """
    SELECT count(*) FROM pg_class WHERE oid = to_regclass('events') AND relkind = 'p'
"""
_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
# Somebody who has been looking at the log for longer than anybody should wait for.
_LOOKING: Final = """
    SELECT count(*) FROM pg_locks held JOIN pg_stat_activity USING (pid)
    WHERE held.relation = 'events'::regclass AND held.pid <> pg_backend_pid()
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND xact_start < clock_timestamp() - interval '1 second'
"""
# For whom we wait, everybody else waits too.
_LOCK_MS: Final = 1_000
_NOT_TO_BE_HAD: Final = "55P03"


@dataclass(frozen=True)
class Partition:
    """A part of the log.

    Args:
        name: of its table.
        lower: the lowest id that it may hold; empty in the first.
        upper: the id behind its highest; None in the last.
        row_bytes: of its rows alone; 0 if it never had any.
        all_bytes: with its indexes.
        cut: where it is about to end, if its cutting has begun.
        proven: whether it is known that nothing in it lies behind ``cut``.
    """

    name: str
    lower: str
    upper: str | None
    row_bytes: int = 0
    all_bytes: int = 0
    cut: str | None = None
    proven: bool = False

    def holds(self, session_id: str) -> bool:
        """Tell whether a session's log lies here."""
        return self.lower <= session_id and (self.upper is None or session_id < self.upper)

    def ended(self, now: datetime) -> bool:
        """Tell whether no new session's log can come here."""
        return self.upper is not None and self.upper <= bound_at(now)


def bound_at(at: datetime) -> str:
    """Return what the ids of all sessions that are made from a time on begin with, or more."""
    whole = make_id(_PREFIX.rstrip("_"), to_micros(at) // 1000, bytes(ENTROPY_BYTES))
    return whole[: len(_PREFIX) + _TIME_CHARS]


def time_of(id_or_bound: str) -> datetime | None:
    """Return when a session of that id was made, or None if the id does not say."""
    digits = id_or_bound.removeprefix(_PREFIX)[:_TIME_CHARS]
    if not id_or_bound.startswith(_PREFIX) or len(digits) < _TIME_CHARS:
        return None
    number = 0
    for digit in digits:
        if digit not in _ALPHABET:
            return None
        number = number * 32 + _ALPHABET.index(digit)
    try:
        return from_micros(number * 1000)
    except (OverflowError, ValueError):
        return None


def next_month(at: datetime) -> datetime:
    """Return the first moment of the month behind that of ``at``."""
    first = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1)


def divided(connection: Connection) -> bool:
    """Tell whether the log is in partitions: it is since schema 0026."""
    return bool(connection.exec_driver_sql(_DIVIDED).scalar())


def found(connection: Connection) -> list[Partition]:
    """Return the partitions in the order of their ranges; none on SQLite.

    Somebody else's (a DEFAULT one, or one that is being detached) are left out.
    """
    if connection.dialect.name == "sqlite":
        return []
    parts = []
    for name, text, row_bytes, all_bytes, proven, cut in connection.exec_driver_sql(_PARTITIONS):
        bounds = _BOUNDS.fullmatch(text or "")
        if bounds is not None:
            quoted = _QUOTED.findall(cut or "")
            parts.append(
                Partition(
                    name,
                    bounds[1] or "",
                    bounds[2],
                    int(row_bytes),
                    int(all_bytes),
                    quoted[-1] if quoted else None,
                    bool(proven),
                )
            )
    return sorted(parts, key=lambda part: part.lower)


def whole(parts: Sequence[Partition]) -> bool:
    """Tell whether every id has its place."""
    ends = [None, *(part.upper for part in parts)]
    starts: list[str | None] = [part.lower or None for part in parts]
    return bool(parts) and ends == [*starts, None]


def next_cut(connection: Connection, last: Partition, now: datetime) -> str | None:
    """Return where the last partition is to be cut now; None if that is not due or cannot be."""
    begins, soon = time_of(last.lower), now + AHEAD
    if begins is not None and begins > soon:
        return None
    newest = connection.exec_driver_sql(f"SELECT max(session_id) FROM {last.name}").scalar()  # noqa: S608  a name of ours
    latest = soon if newest is None else time_of(newest)
    if latest is None:
        return None
    return bound_at(next_month(max(soon, latest, begins or soon)))


def begin_cut(connection: Connection, last: Partition, at: str) -> None:
    """Have nothing behind ``at`` come into a partition from now on."""
    if last.cut is not None:
        connection.exec_driver_sql(f"ALTER TABLE {last.name} DROP CONSTRAINT {_CUT}")
    lower = f"session_id >= '{last.lower}' AND " if last.lower else ""
    connection.exec_driver_sql(
        f"ALTER TABLE {last.name} ADD CONSTRAINT {_CUT}"
        f" CHECK ({lower}session_id < '{at}') NOT VALID"
    )


class Proof:
    """A look through a partition whether nothing lies behind its cut, beside all who use it.

    Args:
        engine: makes the connection that looks.
        last: the partition, whose cut has begun.
    """

    def __init__(self, engine: Engine, last: Partition) -> None:
        self._engine = engine
        self._last = last
        self._cancelled = False
        self._connection: Any = None

    def run(self) -> bool:
        """Look; blocks. Returns whether it came to its end."""
        with self._engine.connect() as connection:
            # Without the gate, behind which everybody would wait.
            connection.info["begin"] = "BEGIN; SET LOCAL statement_timeout = 0"
            self._connection = raw(connection)
            try:
                if not self._cancelled:
                    connection.exec_driver_sql(
                        f"ALTER TABLE {self._last.name} VALIDATE CONSTRAINT {_CUT}"
                    )
                    connection.commit()
                    return True
            except DBAPIError as error:
                # Cancelled; or another server has done it, or somebody holds the table.
                log.info("cut_not_proven", partition=self._last.name, error=repr(error))
            finally:
                self._connection = None
        return False

    def cancel(self) -> None:
        """End it from another thread."""
        self._cancelled = True
        if self._connection is not None:
            self._connection.cancel()


def finish_cut(connection: Connection, last: Partition, at: str) -> None:
    """End the last partition, which is empty or proven, and begin a new one behind it."""
    _detach(connection, last)
    _attach(connection, last.name, last.lower, at)
    if last.cut is not None:
        connection.exec_driver_sql(f"ALTER TABLE {last.name} DROP CONSTRAINT {_CUT}")
    _make(connection, at, None)


def is_free(connection: Connection, part: Partition, now: datetime) -> bool:
    """Tell whether all that a partition holds is logs of sessions that were deleted a while ago."""
    if not part.ended(now):
        return False
    # By the clock that wrote when they were deleted.
    now_us = int(connection.exec_driver_sql(_NOW).scalar_one())
    before_us = now_us - SETTLED // timedelta(microseconds=1)
    lately = select(removed_logs.c.session_id).where(
        removed_logs.c.session_id >= part.lower,
        removed_logs.c.session_id < part.upper,
        removed_logs.c.removed_us > before_us,
    )
    return is_bare(connection, part) and connection.execute(lately.limit(1)).first() is None


def is_bare(connection: Connection, part: Partition) -> bool:
    """Tell whether no session is left of those whose logs lie in a partition that has ended."""
    here = select(sessions.c.id).where(sessions.c.id >= part.lower, sessions.c.id < part.upper)
    return connection.execute(here.limit(1)).first() is None


def removed_in(connection: Connection, part: Partition) -> int:
    """Return how many deleted sessions' logs a partition that has ended still holds, or held."""
    count = select(func.count()).where(
        removed_logs.c.session_id >= part.lower, removed_logs.c.session_id < part.upper
    )
    return int(connection.execute(count).scalar_one())


def drop(
    connection: Connection, parts: Sequence[Partition], part: Partition, now: datetime
) -> None:
    """Do away with a partition that is free; an empty one takes its place, and its neighbours'."""
    first = last = parts.index(part)
    while first > 0 and not parts[first - 1].row_bytes:
        first -= 1
    while parts[last + 1].ended(now) and not parts[last + 1].row_bytes:
        last += 1
    for one in parts[first : last + 1]:
        _detach(connection, one)
        connection.exec_driver_sql(f"DROP TABLE {one.name}")
    _make(connection, parts[first].lower, parts[last].upper)
    connection.execute(
        removed_logs.delete().where(
            removed_logs.c.session_id >= part.lower, removed_logs.c.session_id < part.upper
        )
    )


def watched(connection: Connection) -> bool:
    """Tell whether somebody has been reading the log for so long that it is no time for changes."""
    return bool(connection.exec_driver_sql(_LOOKING).scalar())


@contextmanager
def briefly(connection: Connection) -> Iterator[None]:
    """Wait for no lock for longer than a moment: everybody would wait behind us.

    Raises:
        Unavailable: somebody holds what is to be changed.
    """
    before = connection.exec_driver_sql("SHOW lock_timeout").scalar()
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_MS}")
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _NOT_TO_BE_HAD:
            raise
        raise Unavailable("somebody is reading the log for long") from error
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{before}'")


def _name(lower: str) -> str:
    begins = time_of(lower)
    return "events_p0" if begins is None else f"events_p{begins:%Y%m%d}"


def _make(connection: Connection, lower: str, upper: str | None) -> None:
    connection.exec_driver_sql(
        f"CREATE TABLE {_name(lower)} PARTITION OF events {_range(lower, upper)}"
    )


def _attach(connection: Connection, name: str, lower: str, upper: str) -> None:
    connection.exec_driver_sql(f"ALTER TABLE events ATTACH PARTITION {name} {_range(lower, upper)}")


def _detach(connection: Connection, part: Partition) -> None:
    connection.exec_driver_sql(f"ALTER TABLE events DETACH PARTITION {part.name}")


def _range(lower: str, upper: str | None) -> str:
    start = f"'{lower}'" if lower else "MINVALUE"
    end = "MAXVALUE" if upper is None else f"'{upper}'"
    return f"FOR VALUES FROM ({start}) TO ({end})"
