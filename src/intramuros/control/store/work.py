"""Work items in the lease table: one row for each item, kept for the record.

Queue ``work/<environment id>``, key: the session. ``available_us`` is when an item was last put
into the queue or handed out, and ``holder`` is set while it is handed out; ``epoch`` counts the
times that it was.
"""

from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from intramuros.control.store.db import Tx
from intramuros.control.store.keyset import beyond
from intramuros.control.store.notify import work_topic
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.tables import leases, pollers, sessions
from intramuros.protocol.work import LEASED, LIVE, Item, WorkState

# Kept in columns of their own; the rest of an item is the row's payload.
_COLUMNS: Final = frozenset(
    {"id", "environment_id", "session_id", "created_us", "state", "expires_us"}
)
_PREFIX: Final = work_topic("")
# The states of LEASED, in the words of the index that holds only those.
_SERVED: Final = text("leases.state IN ('starting', 'active', 'stopping')")
_INSERT: Final = Prepared(insert(leases))
# Built once: it runs in every turn.
_OF_SESSION: Final = Prepared(
    select(leases)
    .where(
        leases.c.queue == bindparam("of_queue"),
        leases.c.key == bindparam("of_key"),
        leases.c.state != WorkState.STOPPED.value,
    )
    .order_by(leases.c.created_us, leases.c.id)
    # Claims and heartbeats change items without the session's key.
    .with_for_update()
)


def add(tx: Tx, item: Item) -> None:
    """Insert a new item."""
    row = {
        "id": item.id,
        "queue": work_topic(item.environment_id),
        "key": item.session_id,
        "state": item.state.value,
        "epoch": 0,
        "available_us": item.created_us,
        "expires_us": item.expires_us,
        "payload": _payload(item),
        "created_us": item.created_us,
    }
    tx.later(_INSERT, row)


def save(tx: Tx, item: Item) -> None:
    """Store an item's new state; the caller has read it in the same transaction."""
    tx.execute(
        update(leases)
        .where(leases.c.id == item.id)
        .values(state=item.state.value, expires_us=item.expires_us, payload=_payload(item))
    )


def get(tx: Tx, environment_id: str, work_id: str, *, hold: bool = False) -> Item | None:
    """Return an item of that environment, or None.

    Args:
        hold: keep it from other writers until the transaction ends, to change it.
    """
    query = select(leases).where(
        leases.c.id == work_id, leases.c.queue == work_topic(environment_id)
    )
    row = tx.execute(query.with_for_update() if hold else query).first()
    return None if row is None else _item(row)


def of_session(tx: Tx, environment_id: str, session_id: str) -> list[Item]:
    """Return a session's items that are not stopped, oldest first, held to be changed."""
    named = {"of_queue": work_topic(environment_id), "of_key": session_id}
    return [_item(row) for row in tx.run(_OF_SESSION, named)]


def claim(tx: Tx, environment_id: str, holder: str, now_us: int, reclaim_us: int) -> Item | None:
    """Return the item that a poll gets next and mark it handed out, or None.

    Args:
        reclaim_us: items handed out but not acknowledged for longer than this are handed out
            again, microseconds (contract 9.14).
    """
    row = tx.execute(
        select(leases)
        .where(_claimable(environment_id, now_us, reclaim_us))
        .order_by(leases.c.available_us, leases.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).first()
    if row is None:
        return None
    _hand_out(tx, row, holder, now_us)
    return _item(row)


def has_claimable(tx: Tx, environment_id: str, now_us: int, reclaim_us: int) -> bool:
    """Tell whether a poll would get something; cheap, for use before :func:`claim`."""
    return bool(tx.scalar(select(exists().where(_claimable(environment_id, now_us, reclaim_us)))))


def claim_hosted(tx: Tx, holder: str, now_us: int, reclaim_us: int) -> tuple[Item, str] | None:
    """Return the next item of any cloud environment and its workspace, marked handed out, or None.

    Args:
        reclaim_us: as for :func:`claim`.
    """
    row = tx.execute(
        hosted(now_us, reclaim_us)
        .order_by(leases.c.available_us, leases.c.id)
        .limit(1)
        .with_for_update(of=leases, skip_locked=True)
    ).first()
    if row is None:
        return None
    _hand_out(tx, row, holder, now_us)
    return _item(row), row.workspace_id


def has_hosted(tx: Tx, now_us: int, reclaim_us: int) -> bool:
    """Tell whether :func:`claim_hosted` would find something; cheap."""
    return tx.execute(hosted(now_us, reclaim_us).limit(1)).first() is not None


def requeue(tx: Tx, item: Item, now_us: int) -> None:
    """Store an item as back in the queue, behind what waits there."""
    save(tx, item)
    tx.execute(
        update(leases).where(leases.c.id == item.id).values(holder=None, available_us=now_us)
    )


def lapsed(tx: Tx, now_us: int) -> list[Item]:
    """Return every item whose lease has run out."""
    rows = tx.execute(
        select(leases)
        .where(
            leases.c.queue.startswith(_PREFIX, autoescape=True),
            _SERVED,
            leases.c.expires_us <= now_us,
        )
        .order_by(leases.c.created_us, leases.c.id)
    )
    return [_item(row) for row in rows]


def held(tx: Tx) -> list[Item]:
    """Return every item that some worker serves and nobody has asked to stop."""
    rows = tx.execute(
        select(leases)
        .where(
            leases.c.queue.startswith(_PREFIX, autoescape=True),
            _SERVED,
            leases.c.state.in_([state.value for state in LEASED & LIVE]),
        )
        .order_by(leases.c.created_us, leases.c.id)
    )
    return [_item(row) for row in rows]


def page(
    tx: Tx, environment_id: str, limit: int, after: tuple[int, str] | None
) -> tuple[list[Item], tuple[int, str] | None]:
    """Return items newest first, and where the next page starts (AMB 35).

    Args:
        after: creation time and id of the last item of the page before.
    """
    query = select(leases).where(leases.c.queue == work_topic(environment_id))
    if after is not None:
        query = query.where(beyond((leases.c.created_us, leases.c.id), after, ascending=False))
    rows = tx.execute(
        query.order_by(leases.c.created_us.desc(), leases.c.id.desc()).limit(limit + 1)
    )
    items = [_item(row) for row in rows]
    if len(items) <= limit:
        return items, None
    last = items[limit - 1]
    return items[:limit], (last.created_us, last.id)


def count_queued(tx: Tx, environment_id: str) -> tuple[int, int, int | None]:
    """Return how many items wait, how many are handed out, and the oldest one's time."""
    row = tx.execute(
        select(
            func.count().filter(leases.c.holder.is_(None)).label("waiting"),
            func.count().filter(leases.c.holder.is_not(None)).label("pending"),
            func.min(leases.c.created_us).label("oldest_us"),
        ).where(
            leases.c.queue == work_topic(environment_id),
            leases.c.state == WorkState.QUEUED.value,
        )
    ).one()
    return row.waiting, row.pending, row.oldest_us


def note_poller(tx: Tx, environment_id: str, worker_id: str, now_us: int) -> None:
    """Remember that a worker polled, and forget those not seen for a day."""
    key = (pollers.c.environment_id == environment_id, pollers.c.worker_id == worker_id)
    if tx.execute(update(pollers).where(*key).values(seen_us=now_us)).rowcount:
        return
    tx.execute(delete(pollers).where(pollers.c.seen_us < now_us - _FORGET_US))
    tx.execute(
        insert(pollers).values(environment_id=environment_id, worker_id=worker_id, seen_us=now_us)
    )


def count_pollers(tx: Tx, environment_id: str, since_us: int) -> int:
    """Return how many distinct workers have polled since then (contract 9.38)."""
    seen = tx.scalar(
        select(func.count()).where(
            pollers.c.environment_id == environment_id, pollers.c.seen_us >= since_us
        )
    )
    return int(seen or 0)


_FORGET_US: Final = 24 * 3600 * 1_000_000


def _hand_out(tx: Tx, row: Row[Any], holder: str, now_us: int) -> None:
    tx.execute(
        update(leases)
        .where(leases.c.id == row.id)
        .values(holder=holder, available_us=now_us, epoch=row.epoch + 1)
    )


def _claimable(environment_id: str, now_us: int, reclaim_us: int) -> ColumnElement[bool]:
    return and_(
        leases.c.queue == work_topic(environment_id),
        leases.c.state == WorkState.QUEUED.value,
        _free(now_us, reclaim_us),
    )


def hosted(now_us: int, reclaim_us: int) -> Select[Any]:
    """Return the query for what the pool may claim: items, each with its workspace."""
    return (
        select(leases, sessions.c.workspace_id)
        .join(sessions, sessions.c.id == leases.c.key)
        .where(
            # Spelled out, for the index over what waits.
            text("leases.state = 'queued'"),
            leases.c.queue.startswith(_PREFIX, autoescape=True),
            sessions.c.environment_kind == "cloud",
            _free(now_us, reclaim_us),
        )
    )


def _free(now_us: int, reclaim_us: int) -> ColumnElement[bool]:
    # A session that an earlier holder is still leaving is not handed to a second one.
    leaving = leases.alias("leaving")
    return and_(
        or_(leases.c.holder.is_(None), leases.c.available_us <= now_us - reclaim_us),
        ~exists().where(
            leaving.c.queue == leases.c.queue,
            leaving.c.key == leases.c.key,
            leaving.c.state == WorkState.STOPPING.value,
        ),
    )


def _payload(item: Item) -> dict[str, object]:
    return {name: value for name, value in vars(item).items() if name not in _COLUMNS}


def _item(row: Row[Any]) -> Item:
    return Item(
        id=row.id,
        environment_id=row.queue.removeprefix(_PREFIX),
        session_id=row.key,
        created_us=row.created_us,
        state=WorkState(row.state),
        expires_us=row.expires_us,
        **row.payload,
    )
