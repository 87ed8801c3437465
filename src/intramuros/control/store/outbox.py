"""The outbox: what webhooks are to tell, written in the transaction of the act itself.

Whoever does something that webhooks tell of calls :func:`tell` before its transaction ends, so that
the act and the word of it are durable together or not at all. Nothing is sent here: a row for each
endpoint that is subscribed at that moment waits until somebody delivers it (control/webhooks), and
events that nobody subscribed to leave no trace (R276).
"""

import hashlib
from typing import Final

from sqlalchemy import bindparam, func, insert, select

from intramuros.control.store import leases
from intramuros.control.store.db import Tx
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.webhook_tables import (
    webhook_deliveries,
    webhook_events,
    webhook_subscriptions,
)
from intramuros.kernel.ids import ENTROPY_BYTES, make_id
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.webhooks import EMITTED, ORGANIZATION_KINDS

log = logger("webhooks")

# One lease for each endpoint that has something to be sent.
QUEUE: Final = "webhook"
# The scope of the organization's endpoints; a workspace's scope is its id.
ORGANIZATION: Final = "organization"
# What one endpoint may have waiting; more is lost to it, as after three failed attempts.
MAX_WAITING: Final = 5_000


def tell(
    tx: Tx,
    clock: Clock,
    kind: str,
    *,
    workspace_id: str | None,
    resource_id: str,
    source: str = "",
    **more: str,
) -> int:
    """Put one event into the outbox for every endpoint that is subscribed to its kind now.

    Costs one look at an index when there is none.

    Args:
        kind: such as ``vault.created`` (protocol/webhooks.py).
        workspace_id: where it happened; kinds of the organization belong to no workspace (R259).
        resource_id: of the object that the event is about.
        source: what tells this event from another of the kind about the object at the same time:
            the hash of its audit record, say, or the id of its row in a session's log.
        more: further ids that the kind carries, such as ``vault_id`` or ``session_thread_id``.

    Returns:
        how many endpoints will hear of it.

    Raises:
        ValueError: no kind that webhooks tell of.
    """
    if kind not in EMITTED:
        raise ValueError(f"webhooks do not tell of {kind!r}")
    scope = ORGANIZATION if kind in ORGANIZATION_KINDS else workspace_id
    wanted = {"of_scope": scope, "of_kind": kind}
    endpoint_ids = tx.run(_SUBSCRIBED, wanted).scalars()
    room = [one for one in endpoint_ids if _has_room(tx, one)]
    if not room:
        return 0
    tx.take_turn()
    at_us = to_micros(clock.now())
    data = {"type": kind, "id": resource_id}
    if scope != ORGANIZATION and workspace_id is not None:
        data["workspace_id"] = workspace_id
    event_id = _event_id(at_us, f"{kind}\0{resource_id}\0{source}\0{sorted(more.items())}")
    tx.execute(_KEEP, {"id": event_id, "data": {**data, **more}, "at_us": at_us})
    for endpoint_id in room:
        waiting = {"endpoint_id": endpoint_id, "event_id": event_id, "attempts": 0, "due_us": at_us}
        tx.execute(_SEND, waiting)
        leases.offer(tx, QUEUE, endpoint_id, at_us)
    return len(room)


def _has_room(tx: Tx, endpoint_id: str) -> bool:
    if int(tx.scalar(_WAITING, {"of_endpoint": endpoint_id}) or 0) < MAX_WAITING:
        return True
    log.warning("webhook_backlog_full", endpoint=endpoint_id, limit=MAX_WAITING)
    return False


def _event_id(at_us: int, what: str) -> str:
    """Return an event's id, made of what it is rather than of chance: telling twice is an error."""
    digest = hashlib.sha256(f"{at_us}\0{what}".encode()).digest()
    return make_id("whe", at_us // 1000, digest[:ENTROPY_BYTES])


# Built once: the first runs in every act that webhooks tell of.
_SUBSCRIBED: Final = Prepared(
    select(webhook_subscriptions.c.endpoint_id)
    .where(
        webhook_subscriptions.c.scope == bindparam("of_scope"),
        webhook_subscriptions.c.kind == bindparam("of_kind"),
    )
    .order_by(webhook_subscriptions.c.endpoint_id)
    # PostgreSQL: an endpoint that somebody deletes meanwhile stays until the act is done.
    .with_for_update(read=True, key_share=True)
)
_WAITING: Final = select(func.count()).select_from(
    select(webhook_deliveries.c.event_id)
    .where(webhook_deliveries.c.endpoint_id == bindparam("of_endpoint"))
    .limit(MAX_WAITING)
    .subquery()
)
_KEEP: Final = insert(webhook_events)
_SEND: Final = insert(webhook_deliveries)
