"""Logs of deleted sessions, on PostgreSQL: rows that nobody sees, removed in small batches.

SQLite removes a log with its session.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import and_, bindparam, delete, func, not_, select

from intramuros.control.store.db import Tx
from intramuros.control.store.tables import events, removed_logs

# Rows that one transaction removes: some milliseconds.
BATCH: Final = 1_000


def waiting(tx: Tx, limit: int, leaving: Sequence[tuple[str, str]] = ()) -> list[str]:
    """Return up to ``limit`` deleted sessions whose logs are there, in the order of their ids.

    Args:
        leaving: ranges of ids, from the first to before the second, that are left out.
    """
    here = removed_logs.c.session_id
    query = (
        select(here)
        .where(*(not_(and_(here >= lower, here < upper)) for lower, upper in leaving))
        .order_by(here)
        .limit(limit)
    )
    return list(tx.execute(query).scalars())


def clear(tx: Tx, session_id: str) -> int:
    """Remove the next rows of a deleted session's log; return how many, 0 when all are gone."""
    first = tx.execute(_FIRST, {"of_id": session_id}).scalar()
    if first is None:
        tx.execute(_FORGET, {"of_id": session_id})
        return 0
    return int(tx.execute(_CLEAR, {"of_id": session_id, "behind": first + BATCH}).rowcount)


_FIRST: Final = select(func.min(events.c.seq)).where(events.c.session_id == bindparam("of_id"))
# Not without its entry: a log is only removed of what was deleted.
_CLEAR: Final = delete(events).where(
    events.c.session_id == bindparam("of_id"),
    events.c.seq < bindparam("behind"),
    select(removed_logs.c.session_id)
    .where(removed_logs.c.session_id == bindparam("of_id"))
    .exists(),
)
_FORGET: Final = delete(removed_logs).where(removed_logs.c.session_id == bindparam("of_id"))
