"""Web calls that workers claimed and no longer say anything about.

The queue itself is that of ``leases.py``; here is what it takes to find the claims of all its
environments at once, whose queues are those that workers have polled, and to count on such a worker
no longer.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, delete, select, update

from intramuros.control.store.db import Tx
from intramuros.control.store.leases import HELD
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.tables import leases, pollers


@dataclass(frozen=True)
class Lapsed:
    """A claim that ran out.

    Args:
        id: of its row.
        queue: where it was claimed.
        key: the call's.
        epoch: of the claim.
        holder: the worker that had it, for people.
    """

    id: str
    queue: str
    key: str
    epoch: int
    holder: str | None


def lapsed(tx: Tx, now_us: int) -> list[Lapsed]:
    """Return the claims on web calls that ran out, the oldest first."""
    rows = tx.run(_LAPSED, {"now_us": now_us})
    return [Lapsed(row.id, row.queue, row.key, row.epoch, row.holder) for row in rows]


def drop(tx: Tx, claim: Lapsed, now_us: int) -> bool:
    """Remove a claim for good if it is still the newest and still run out; tell whether it was.

    After this no answer is taken under it.
    """
    mine = {"of_id": claim.id, "of_epoch": claim.epoch, "now_us": now_us}
    return bool(tx.run(_DROP, mine).rowcount)


def doubt(tx: Tx, queue: str, worker: str, seen_us: int) -> None:
    """Take a worker for one that last polled at that time, if it polled since, until it does again.

    Its row stays: the queue is still one that was polled.
    """
    tx.execute(
        update(pollers)
        .where(
            pollers.c.environment_id == queue,
            pollers.c.worker_id == worker,
            pollers.c.seen_us > seen_us,
        )
        .values(seen_us=seen_us)
    )


_RUN_OUT: Final = (leases.c.state == HELD, leases.c.expires_us <= bindparam("now_us"))
_LAPSED: Final = Prepared(
    select(leases.c.id, leases.c.queue, leases.c.key, leases.c.epoch, leases.c.holder)
    # What was polled lately is little, and no other queue has such a name.
    .where(leases.c.queue.in_(select(pollers.c.environment_id)), *_RUN_OUT)
    .order_by(leases.c.expires_us, leases.c.id)
)
_DROP: Final = Prepared(
    delete(leases).where(
        leases.c.id == bindparam("of_id"), leases.c.epoch == bindparam("of_epoch"), *_RUN_OUT
    )
)
