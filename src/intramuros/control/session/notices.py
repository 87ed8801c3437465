"""Which rows of a session's log webhooks tell of, under the names that webhooks use (c26_3)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from sqlalchemy import Row, bindparam, select

from intramuros.control.store import outbox
from intramuros.control.store.db import Tx
from intramuros.control.store.records import Record, primary_thread_id
from intramuros.control.store.tables import events
from intramuros.kernel.timing import Clock
from intramuros.protocol.resources.dreams import ENVIRONMENT_KIND

# The log's type → the webhook's.
_TOLD: Final[Mapping[str, str]] = {
    "session.status_running": "session.status_run_started",
    "session.status_idle": "session.status_idled",
    "session.status_rescheduled": "session.status_rescheduled",
    "session.status_terminated": "session.status_terminated",
    "session.updated": "session.updated",
    "session.thread_created": "session.thread_created",
    "session.thread_status_idle": "session.thread_idled",
    "session.thread_status_terminated": "session.thread_terminated",
    "span.outcome_evaluation_end": "session.outcome_evaluation_ended",
}
_OF_THREADS: Final = frozenset(
    {"session.thread_created", "session.thread_idled", "session.thread_terminated"}
)
_BUDGET: Final = "session.budget_reached"


def pass_on(tx: Tx, clock: Clock, session: Row[Any], written: Sequence[Record]) -> bool:
    """Tell webhooks of the rows just appended to a session's log.

    Args:
        session: its row.

    Returns:
        True if somebody will hear of them.
    """
    heard = 0
    told: set[tuple[str, str | None]] = set()
    for record in written:
        for kind, thread_id in _kinds(tx, session, record):
            # A thread's event may stand in the log twice: for itself and for the whole session.
            if thread_id is not None and (kind, thread_id) in told:
                continue
            told.add((kind, thread_id))
            more = {} if thread_id is None else {"session_thread_id": thread_id}
            heard += outbox.tell(
                tx,
                clock,
                kind,
                workspace_id=session.workspace_id,
                resource_id=session.id,
                source=record.id,
                **more,
            )
    return heard > 0


def _kinds(tx: Tx, session: Row[Any], record: Record) -> list[tuple[str, str | None]]:
    kind = _TOLD.get(record.type) if record.visible else None
    if kind is None or _asks_a_dream(session, record):
        return []
    if kind in _OF_THREADS:
        thread_id = cast("str", record.body["session_thread_id"])
        return [(kind, thread_id)] if _concerns(session, kind, thread_id) else []
    if _stop(record.body) == "budget_reached" and _first_since_change(tx, record):
        return [(_BUDGET, None), (kind, None)]
    return [(kind, None)]


def _asks_a_dream(session: Row[Any], record: Record) -> bool:
    """Tell whether a session asks for what its dream will answer, and nobody else can."""
    dreams = session.environment_kind == ENVIRONMENT_KIND
    return dreams and _stop(record.body) == "requires_action"


def _concerns(session: Row[Any], kind: str, thread_id: str) -> bool:
    """Tell whether webhooks speak of this thread.

    The primary thread's end is the session's; that it waits is news only where there are others
    (R261).
    """
    if thread_id != primary_thread_id(session.id):
        return True
    return kind == "session.thread_idled" and bool(session.agent.get("multiagent"))


def _stop(body: Mapping[str, object]) -> str | None:
    reason = body.get("stop_reason")
    return reason.get("type") if isinstance(reason, Mapping) else None


def _first_since_change(tx: Tx, record: Record) -> bool:
    """Tell whether the budget was not reached before since it was set (R266)."""
    earlier = tx.execute(_EARLIER, {"of_session": record.session_id, "before": record.seq})
    for row in earlier:
        if row.type == "session.updated":
            if "budget" in row.body:
                return True
        elif _stop(row.body) == "budget_reached":
            return False
    return True


# Newest first, so that the search ends at the last change; it runs only when a budget is reached.
_EARLIER: Final = (
    select(events.c.type, events.c.body)
    .where(
        events.c.session_id == bindparam("of_session"),
        events.c.seq < bindparam("before"),
        events.c.type.in_(("session.status_idle", "session.updated")),
    )
    .order_by(events.c.seq.desc())
)
