"""What transactions on PostgreSQL begin with: locks, limits, and where the server stands.

Texts that one round trip sends before anything else. The limits are the transaction's own.
"""

import hashlib
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

from intramuros.control.store.arrival import POSITION, Position, offset_of
from intramuros.control.store.drivers import Keys
from intramuros.kernel.errors import OperatorError

if TYPE_CHECKING:
    import psycopg

# A stopped process holds its locks no longer than this, and others wait for them longer.
IDLE_TIMEOUT_MS: Final = 5_000
# What may be chosen for statements, in seconds: less would cut off waiting for locks.
MIN_STATEMENT_S: Final = 0.1
MAX_STATEMENT_S: Final = 86_400.0
LOCK_TIMEOUT_MS: Final = 10_000

# Advisory locks of two numbers are apart from those of one, which are keys.
_SPACE: Final = 0x1A7A
_GATE: Final = f"({_SPACE}, 1)"
TURN: Final = f"SELECT pg_advisory_xact_lock({_SPACE}, 2)"
# Where a connection's info has what a transaction on a replica was told at its beginning.
TOLD: Final = "told"
# Where it has what reads on it begin with, and the system and timeline of its server.
SNAPSHOT: Final = "snapshot"
_PLACE: Final = "place"
# Where the primary stands. What was not flushed was not acknowledged, unless commits do not wait.
_WRITTEN: Final = (
    "CASE WHEN current_setting('synchronous_commit') = 'off'"
    " THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn() END"
)
# The same, if it may be a replica now, or another server than a moment ago.
_WHERE: Final = ", ".join(
    f"CASE WHEN pg_is_in_recovery() THEN NULL ELSE {what} END"
    for what in (
        "(SELECT system_identifier FROM pg_control_system())",
        f"substr(pg_walfile_name({_WRITTEN}), 1, 8)",
        _WRITTEN,
    )
)
# Asked at the beginning of reads on a replica.
WHO: Final = ", pg_is_in_recovery(), pg_postmaster_start_time()"


def number_of(key: str) -> int:
    """Return the number by which PostgreSQL knows a key's lock."""
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], signed=True)


def begin(limits: str, keys: Keys | None = None) -> str:
    """Return what begins a transaction that writes.

    Args:
        limits: of :func:`limits`.
        keys: what it works on, in any order; None to be alone.
    """
    if keys is None:
        return f"BEGIN; SELECT {limits}, pg_advisory_xact_lock{_GATE}"
    # Everybody locks in the order of the numbers.
    numbers = sorted({number_of(key) for key in keys})
    shared = f"BEGIN; SELECT {limits}, pg_advisory_xact_lock_shared{_GATE}"
    return "".join([shared, *(f"; SELECT pg_advisory_xact_lock({n})" for n in numbers)])


def snapshot(limits: str, more: str = "") -> str:
    """Return what begins reads of one state; ``more`` asks for further columns."""
    return f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT {limits}{more}"


# What is done with the answer to what began a transaction.
Begun = Callable[[Connection, "psycopg.Cursor[Any]"], None]


def told(connection: Connection, cursor: "psycopg.Cursor[Any]") -> None:
    """Keep what the last two columns of the last of several statements gave, as text."""
    connection.info[TOLD] = _last(cursor, 2)


def place(
    connection: "psycopg.Connection[Any]", info: MutableMapping[str, Any], limits: str
) -> None:
    """Look where a new connection leads, and choose what reads on it begin with.

    Which cluster and history it is on need not be asked each time, for a server that goes on with
    another history has lost its connections first; but a pooler may have other ones by then.
    """
    cursor = connection.execute(f"SELECT pg_backend_pid()::text, {_WHERE}")
    pid, system, timeline, _ = _last(cursor, 4)
    connection.rollback()
    if pid != str(connection.info.backend_pid):
        info[SNAPSHOT] = snapshot(limits, f", {_WHERE}")
    elif system is not None and timeline is not None:
        info[_PLACE] = int(system), int(timeline, 16)
        info[SNAPSHOT] = snapshot(limits, f", {_WRITTEN}")


def placed(connection: Connection, cursor: "psycopg.Cursor[Any]") -> None:
    """Keep where the server stood when a read began; None if it is a replica itself."""
    info = connection.info
    if SNAPSHOT not in info:
        info[POSITION] = None
        return
    if _PLACE in info:
        (written,) = _last(cursor, 1)
        system, timeline = info[_PLACE]
    else:
        number, name, written = _last(cursor, 3)
        system, timeline = int(number or 0), int(name or "0", 16)
    info[POSITION] = Position(system, timeline, offset_of(written)) if written else None


def _last(cursor: "psycopg.Cursor[Any]", count: int) -> list[str | None]:
    """Return the last columns of the only row of the last of several statements, as text."""
    while cursor.nextset():
        continue
    result = cursor.pgresult
    assert result is not None
    first = result.nfields - count
    values = [result.get_value(0, column) for column in range(first, result.nfields)]
    return [None if value is None else value.decode() for value in values]


def limits(statement_s: float) -> str:
    """Return what sets the limits of a transaction.

    Not of the session: behind a pooler that is everybody's, so that what was set for it would be
    gone in the next transaction and in force in somebody else's.
    """
    statement_ms = _statement_ms(statement_s)
    wanted = {
        # Who waits for a lock tries again; the statement's own limit would have it fail.
        "lock_timeout": min(LOCK_TIMEOUT_MS, statement_ms // 2 or LOCK_TIMEOUT_MS),
        "statement_timeout": statement_ms,
        "idle_in_transaction_session_timeout": IDLE_TIMEOUT_MS,
    }
    return ", ".join(f"set_config('{name}', '{ms}', true)" for name, ms in wanted.items())


def _statement_ms(statement_s: float) -> int:
    if statement_s and not MIN_STATEMENT_S <= statement_s <= MAX_STATEMENT_S:
        raise OperatorError(
            f"a statement cannot be given {statement_s:g} s",
            f"choose {MIN_STATEMENT_S:g} to {MAX_STATEMENT_S:g} seconds, or 0 for no limit",
        )
    return round(statement_s * 1_000)
