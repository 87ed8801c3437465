"""Events on their way to endpoints: which one is due, that an attempt begins, what came of it.

A delivery's row is its whole state. ``attempts`` counts attempts that were begun, before anything
is sent, so that a process killed in the middle has used one up; it is also the fence: what came of
an attempt counts only while no later one has begun.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, delete, exists, func, select, update

from intramuros.control.store.db import Tx
from intramuros.control.store.webhook_tables import webhook_deliveries, webhook_events

_TABLE: Final = webhook_deliveries.c


@dataclass(frozen=True)
class Attempt:
    """One attempt to deliver one event to one endpoint, numbered from 1.

    ``data`` is the event's, ``at_us`` when it happened.
    """

    endpoint_id: str
    event_id: str
    number: int
    data: dict[str, Any]
    at_us: int


def secret_name(endpoint_id: str) -> str:
    """Return the name that an endpoint's signing secret is sealed under."""
    return f"webhook/{endpoint_id}"


def next_due(tx: Tx, endpoint_id: str, now_us: int, apart: Collection[str]) -> str | None:
    """Return the event that is due longest, or None.

    Args:
        apart: events that are being delivered already.
    """
    found = tx.execute(
        _DUE, {"of_endpoint": endpoint_id, "now_us": now_us, "limit": len(apart) + 1}
    ).scalars()
    return next((event_id for event_id in found if event_id not in apart), None)


def next_due_us(tx: Tx, endpoint_id: str) -> int | None:
    """Return when something is due next, which may be past; None if nothing waits."""
    at_us: int | None = tx.scalar(
        select(func.min(_TABLE.due_us)).where(_TABLE.endpoint_id == endpoint_id)
    )
    return at_us


def begin(tx: Tx, endpoint_id: str, event_id: str, limit: int) -> Attempt | None:
    """Count an attempt that is about to be made; None if there is nothing to be delivered any more.

    Args:
        limit: attempts that a delivery may have; one that has had them is given up.
    """
    row = tx.execute(_WITH_EVENT, {"of_endpoint": endpoint_id, "of_event": event_id}).first()
    if row is None:
        return None
    if row.attempts >= limit:
        end(tx, endpoint_id, event_id)
        return None
    tx.execute(
        _BEGIN, {"of_endpoint": endpoint_id, "of_event": event_id, "number": row.attempts + 1}
    )
    return Attempt(endpoint_id, event_id, row.attempts + 1, row.data, row.at_us)


def is_newest(tx: Tx, attempt: Attempt) -> bool:
    """Tell whether the delivery still waits for what comes of this attempt."""
    number = tx.scalar(
        select(_TABLE.attempts).where(
            _TABLE.endpoint_id == attempt.endpoint_id, _TABLE.event_id == attempt.event_id
        )
    )
    return bool(number == attempt.number)


def postpone(tx: Tx, attempt: Attempt, due_us: int) -> None:
    """Let the delivery be attempted again at a time."""
    tx.execute(
        update(webhook_deliveries)
        .where(_TABLE.endpoint_id == attempt.endpoint_id, _TABLE.event_id == attempt.event_id)
        .values(due_us=due_us)
    )


def end(tx: Tx, endpoint_id: str, event_id: str) -> None:
    """Forget a delivery that has arrived or is given up, and its event if nobody else awaits it."""
    # PostgreSQL: of two that end an event's last deliveries at once, the second sees none left.
    tx.execute(select(webhook_events.c.id).where(webhook_events.c.id == event_id).with_for_update())
    tx.execute(
        delete(webhook_deliveries).where(
            _TABLE.endpoint_id == endpoint_id, _TABLE.event_id == event_id
        )
    )
    tx.execute(delete(webhook_events).where(webhook_events.c.id == event_id, _AWAITED_BY_NOBODY))


def drop_all(tx: Tx, endpoint_id: str) -> None:
    """Forget everything that is on its way to an endpoint."""
    dropped = tx.execute(
        delete(webhook_deliveries).where(_TABLE.endpoint_id == endpoint_id)
    ).rowcount
    if dropped:
        tx.execute(delete(webhook_events).where(_AWAITED_BY_NOBODY))


_AWAITED_BY_NOBODY: Final = ~exists().where(_TABLE.event_id == webhook_events.c.id)
_DUE: Final = (
    select(_TABLE.event_id)
    .where(
        _TABLE.endpoint_id == bindparam("of_endpoint"),
        _TABLE.due_us <= bindparam("now_us"),
    )
    .order_by(_TABLE.due_us, _TABLE.event_id)
    .limit(bindparam("limit"))
)
_WITH_EVENT: Final = (
    select(_TABLE.attempts, webhook_events.c.data, webhook_events.c.at_us)
    .join(webhook_events, webhook_events.c.id == _TABLE.event_id)
    .where(
        _TABLE.endpoint_id == bindparam("of_endpoint"),
        _TABLE.event_id == bindparam("of_event"),
    )
    .with_for_update(of=webhook_deliveries)
)
_BEGIN: Final = (
    update(webhook_deliveries)
    .where(
        _TABLE.endpoint_id == bindparam("of_endpoint"),
        _TABLE.event_id == bindparam("of_event"),
    )
    .values(attempts=bindparam("number"))
)
