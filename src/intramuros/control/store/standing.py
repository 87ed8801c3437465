"""Where a replica of a PostgreSQL database stands, and why it may not be read."""

from dataclasses import dataclass
from typing import Final

import psycopg
from sqlalchemy import Connection

from intramuros.control.store.arrival import Position, offset_of
from intramuros.control.store.drivers import Elsewhere, raw

# Why a list was not read on a replica; words for the log and for labels.
BEHIND: Final = "behind"
AWAY: Final = "away"
SLOW: Final = "slow"
BUSY: Final = "busy"
CONFLICT: Final = "conflict"
REFUSED: Final = "refused"
PROMOTED: Final = "promoted"
FOREIGN: Final = "foreign"
FORKED: Final = "forked"
RESTARTED: Final = "restarted"
RESTING: Final = "resting"
SERVED: Final = "served"
OUTCOMES: Final = (
    *(SERVED, BEHIND, AWAY, SLOW, BUSY, CONFLICT, REFUSED),
    *(PROMOTED, FOREIGN, FORKED, RESTARTED, RESTING),
)
# What an operator has to do something about.
FIXES: Final = {
    PROMOTED: "it is no replica any more: name one that follows the primary",
    FOREIGN: "it follows another cluster: name a replica of this database's server",
    FORKED: "it follows another timeline: rebuild it from the primary, or wait for it to follow",
    REFUSED: "grant its role CONNECT and SELECT on all tables",
}
LASTING: Final = frozenset(FIXES)
_LOOK: Final = (
    "SELECT pg_is_in_recovery(), pg_postmaster_start_time()::text,"
    " (SELECT system_identifier FROM pg_control_system()),"
    # Only some roles see the first, which is known at once; the second follows in minutes.
    " COALESCE((SELECT received_tli FROM pg_stat_wal_receiver),"
    " (SELECT min_recovery_end_timeline FROM pg_control_recovery())),"
    " pg_last_wal_replay_lsn()::text"
)


_MAY_READ: Final = (
    "SELECT bool_and(has_table_privilege(oid, 'SELECT')) FROM pg_class"
    " WHERE relkind IN ('r', 'p') AND relnamespace ="
    " (SELECT relnamespace FROM pg_class WHERE oid = 'sessions'::regclass)"
)


@dataclass(frozen=True)
class Standing:
    """What a replica said of itself.

    Args:
        replica: false once it was promoted.
        started: when its server was started.
        position: up to where it has replayed, on which history; None if it does not say.
    """

    replica: bool
    started: str
    position: Position | None

    def check(self, wanted: Position) -> None:
        """Check that it follows the server that wrote ``wanted``.

        Raises:
            Elsewhere: it does not.
        """
        if not self.replica:
            raise Elsewhere(PROMOTED)
        if self.position is None or self.position.system != wanted.system:
            raise Elsewhere(FOREIGN)
        if self.position.timeline != wanted.timeline:
            raise Elsewhere(FORKED)

    def has(self, wanted: Position) -> bool:
        """Tell whether all of ``wanted`` was replayed, on the same history."""
        mine = self.position
        return (
            mine is not None
            and (mine.system, mine.timeline) == (wanted.system, wanted.timeline)
            and mine.offset >= wanted.offset
        )


def look(connection: Connection) -> Standing:
    """Ask a server where it stands."""
    row = raw(connection).execute(_LOOK).fetchone()
    assert row is not None
    replica, started, system, timeline, replayed = row
    known = None not in (system, timeline, replayed)
    position = Position(int(system), int(timeline), offset_of(replayed)) if known else None
    return Standing(bool(replica), started, position)


def check_rights(connection: Connection) -> None:
    """Check that the role may read every table.

    Raises:
        Elsewhere: it may not.
    """
    row = raw(connection).execute(_MAY_READ).fetchone()
    if row is None or not row[0]:
        raise Elsewhere(REFUSED)


def reason_of(error: psycopg.Error) -> str:
    """Return the word for an error that a replica raised."""
    state = error.sqlstate
    if state is None:
        return AWAY if isinstance(error, psycopg.OperationalError) else CONFLICT
    if state.startswith("40"):
        return CONFLICT
    if state == "57014":
        return SLOW
    return AWAY if state.startswith(("08", "53", "57", "58", "25P03")) else REFUSED
