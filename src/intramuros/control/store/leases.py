"""The durable queue of turns: offer, claim, beat, finish, reap.

A queue has one row for each key and keeps it for good, because the row's ``epoch`` is the fencing
token and must never start over: it grows with every claim, and whoever acts for a holder checks it
in the same transaction as the act (:func:`check`).

::

            offer                claim                 finish
    idle ──────────► ready ───────────────► held ─────────────────► idle
                       ▲  ▲                  │ │
                       │  └── reap/postpone ─┘ │ offer
                       │                       ▼
                       └─── finish, reap ─── again

``again`` is *held, and offered meanwhile*: finishing it makes it ready at once, so no wake-up is
lost and there are never two holders. Work items share the table (control/store/work.py).
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, case, delete, exists, func, insert, or_, select, update

from intramuros.control.store.db import Tx
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.tables import leases
from intramuros.control.store.tx import Later
from intramuros.kernel.errors import IntramurosError

TURNS: Final = "turn"
# Keys are the ids of the dreams' sessions.
DREAMS: Final = "dream"

IDLE: Final = "idle"
READY: Final = "ready"
HELD: Final = "held"
AGAIN: Final = "again"
_HOLDING: Final = (HELD, AGAIN)


class LostLease(IntramurosError):
    """Somebody else may hold the key now: drop what was being done, write nothing."""


@dataclass(frozen=True)
class Lease:
    """A claim: the right to act for ``key`` while ``epoch`` is the newest."""

    queue: str
    key: str
    epoch: int
    expires_us: int


def offer(tx: Tx, queue: str, key: str, now_us: int, *, at_us: int | None = None) -> None:
    """Make the key claimable, once; while it is held, remember the wish for when it is finished.

    Args:
        at_us: not before this time. A row that is ready earlier stays so.
    """
    available_us = now_us if at_us is None else at_us
    changed = tx.run(_OFFER, {"of_queue": queue, "of_key": key, "at_us": available_us})
    if changed.rowcount:
        return
    row = {"id": f"{queue}/{key}", "queue": queue, "key": key, "state": READY, "epoch": 0}
    times = {"available_us": available_us, "created_us": now_us}
    tx.later(_INSERT, {**row, **times, "payload": {}})


def claim(tx: Tx, queue: str, holder: str, now_us: int, ttl_us: int) -> Lease | None:
    """Take the key that has been claimable longest, or None.

    Args:
        holder: who, for people who read the table.
        ttl_us: how long the claim lasts without :func:`beat`, microseconds.
    """
    row = tx.run(_FIRST_READY, {"of_queue": queue, "now_us": now_us}).first()
    if row is None:
        return None
    lease = Lease(queue, row.key, row.epoch + 1, now_us + ttl_us)
    tx.later(
        _TAKE,
        {
            "of_id": row.id,
            "new_epoch": lease.epoch,
            "new_holder": holder,
            "until_us": lease.expires_us,
        },
    )
    return lease


def take(tx: Tx, queue: str, key: str, holder: str, now_us: int, ttl_us: int) -> Lease | None:
    """Take one key, claimable or not offered yet; None if it is held or was never offered.

    The same claim as :func:`claim`'s, for who is about to offer the key and can act for it at once.

    Args:
        holder: who, for people who read the table.
        ttl_us: how long the claim lasts without :func:`beat`, microseconds.
    """
    until_us = now_us + ttl_us
    wanted = {"of_queue": queue, "of_key": key, "new_holder": holder, "until_us": until_us}
    row = tx.run(_TAKE_KEY, wanted).first()
    return None if row is None else Lease(queue, key, row.epoch, until_us)


def next_ready_us(tx: Tx, queue: str) -> int | None:
    """Return when the next key of the queue is claimable, which may be past; None if none waits."""
    at_us: int | None = tx.run(_NEXT_READY, {"of_queue": queue}).scalar()
    return at_us


def check(tx: Tx, queue: str, key: str, epoch: int) -> None:
    """Make sure that ``epoch`` is the newest claim and not given back.

    Expiry alone does not end a claim: until somebody else claims, its holder is the only one.

    Raises:
        LostLease: it is not.
    """
    require(ask(tx, queue, key), f"{queue}/{key}", epoch)


def ask(tx: Tx, queue: str, key: str) -> Later:
    """Ask for the newest claim of a key, and keep it as it is until the transaction ends."""
    return tx.later(_HELD_EPOCH, {"of_queue": queue, "of_key": key})


def require(claim: Later, name: str, epoch: int) -> None:
    """Make sure that ``epoch`` is the claim that :func:`ask` asked for.

    Args:
        name: of the key, for the error.

    Raises:
        LostLease: it is not.
    """
    row = claim.rows().first()
    if row is None or row.epoch != epoch:
        raise LostLease(f"{name} is no longer held at epoch {epoch}")


def beat(tx: Tx, lease: Lease, expires_us: int) -> None:
    """Extend a claim to ``expires_us``.

    Raises:
        LostLease: it is no longer ours.
    """
    _change(tx, lease, expires_us=expires_us)


def finish(tx: Tx, lease: Lease, now_us: int) -> bool:
    """Give a claim back, done.

    Returns:
        True if the key was offered meanwhile and is claimable again.

    Raises:
        LostLease: it is no longer ours.
    """
    left = {"of_queue": lease.queue, "of_key": lease.key, "of_epoch": lease.epoch}
    row = tx.run(_FINISH, {**left, "now_us": now_us}).first()
    if row is None:
        raise _lost(lease)
    return bool(row.state == READY)


def postpone(tx: Tx, lease: Lease, now_us: int, at_us: int) -> None:
    """Give a claim back, to be claimed again at ``at_us``, or at once if offered meanwhile.

    Raises:
        LostLease: it is no longer ours.
    """
    _change(
        tx,
        lease,
        state=READY,
        available_us=case((leases.c.state == AGAIN, now_us), else_=at_us),
        holder=None,
        expires_us=None,
    )


def reap(tx: Tx, queue: str, now_us: int) -> list[str]:
    """Make every expired claim claimable again and return the keys."""
    expired = (
        leases.c.queue == queue,
        leases.c.state.in_(_HOLDING),
        leases.c.expires_us <= now_us,
    )
    keys = list(tx.execute(select(leases.c.key).where(*expired)).scalars())
    if keys:
        tx.execute(
            update(leases)
            .where(*expired)
            .values(state=READY, available_us=now_us, holder=None, expires_us=None)
        )
    return keys


def release(tx: Tx, queue: str, holder: str, now_us: int) -> list[str]:
    """Make every claim of a holder claimable again and return the keys.

    For a holder that ends, and whose name nobody else bears.
    """
    whose = (
        leases.c.queue == queue,
        leases.c.holder == holder,
        leases.c.state.in_(_HOLDING),
    )
    left = {"state": READY, "available_us": now_us, "holder": None, "expires_us": None}
    changed = update(leases).where(*whose).values(**left).returning(leases.c.key)
    return list(tx.execute(changed).scalars())


def has_expired(tx: Tx, queue: str, now_us: int) -> bool:
    """Tell whether :func:`reap` would find something; cheap, for use before it."""
    return bool(tx.run(_HAS_EXPIRED, {"of_queue": queue, "now_us": now_us}).scalar())


def drop(tx: Tx, queue: str, key: str) -> None:
    """Remove a key for good, with whatever claim there is; only for keys that never come back."""
    tx.execute(delete(leases).where(leases.c.queue == queue, leases.c.key == key))


# Built once: building a statement costs as much as running it, and these run in every turn.
_FIRST_READY: Final = Prepared(
    select(leases.c.id, leases.c.key, leases.c.epoch)
    .where(
        leases.c.queue == bindparam("of_queue"),
        leases.c.state == READY,
        leases.c.available_us <= bindparam("now_us"),
    )
    .order_by(leases.c.available_us, leases.c.id)
    .limit(1)
    # PostgreSQL: rows that another replica is claiming are passed over; SQLite has one writer.
    .with_for_update(skip_locked=True)
)
_INSERT: Final = Prepared(insert(leases))
_TAKE: Final = Prepared(
    update(leases)
    .where(leases.c.id == bindparam("of_id"))
    .values(
        state=HELD,
        epoch=bindparam("new_epoch"),
        holder=bindparam("new_holder"),
        expires_us=bindparam("until_us"),
    )
)
_TAKE_KEY: Final = Prepared(
    update(leases)
    .where(
        leases.c.queue == bindparam("of_queue"),
        leases.c.key == bindparam("of_key"),
        or_(leases.c.state == IDLE, leases.c.state == READY),
    )
    .values(
        state=HELD,
        epoch=leases.c.epoch + 1,
        holder=bindparam("new_holder"),
        expires_us=bindparam("until_us"),
    )
    .returning(leases.c.epoch)
)
_AT_US: Final = bindparam("at_us", type_=leases.c.available_us.type)
_OFFER: Final = Prepared(
    update(leases)
    .where(leases.c.queue == bindparam("of_queue"), leases.c.key == bindparam("of_key"))
    .values(
        state=case(
            (leases.c.state == IDLE, READY),
            (leases.c.state == HELD, AGAIN),
            else_=leases.c.state,
        ),
        available_us=case(
            (leases.c.state == IDLE, _AT_US),
            ((leases.c.state == READY) & (leases.c.available_us > _AT_US), _AT_US),
            else_=leases.c.available_us,
        ),
    )
)
# A list of values cannot be prepared.
_IS_HELD: Final = or_(*(leases.c.state == state for state in _HOLDING))
_NEXT_READY: Final = Prepared(
    select(func.min(leases.c.available_us)).where(
        leases.c.queue == bindparam("of_queue"), leases.c.state == READY
    )
)
# Every queue is asked this about once a second.
_HAS_EXPIRED: Final = Prepared(
    select(
        exists().where(
            leases.c.queue == bindparam("of_queue"),
            _IS_HELD,
            leases.c.expires_us <= bindparam("now_us", type_=leases.c.expires_us.type),
        )
    )
)
_HELD_EPOCH: Final = Prepared(
    select(leases.c.epoch)
    .where(
        leases.c.queue == bindparam("of_queue"),
        leases.c.key == bindparam("of_key"),
        _IS_HELD,
    )
    .with_for_update()
)


_FINISH: Final = Prepared(
    update(leases)
    .where(
        leases.c.queue == bindparam("of_queue"),
        leases.c.key == bindparam("of_key"),
        leases.c.epoch == bindparam("of_epoch"),
        _IS_HELD,
    )
    .values(
        state=case((leases.c.state == AGAIN, READY), else_=IDLE),
        available_us=bindparam("now_us"),
        holder=None,
        expires_us=None,
    )
    .returning(leases.c.state)
)


def _lost(lease: Lease) -> LostLease:
    return LostLease(f"{lease.queue}/{lease.key} is no longer held at epoch {lease.epoch}")


def _change(tx: Tx, lease: Lease, **values: object) -> None:
    changed = tx.execute(
        update(leases)
        .where(
            leases.c.queue == lease.queue,
            leases.c.key == lease.key,
            leases.c.epoch == lease.epoch,
            leases.c.state.in_(_HOLDING),
        )
        .values(**values)
    )
    if not changed.rowcount:
        raise _lost(lease)
