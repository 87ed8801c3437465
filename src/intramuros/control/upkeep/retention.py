"""Says what retention would delete, and changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from intramuros.control.session import removal
from intramuros.control.session.removal import Share
from intramuros.control.store import partitions, snapshots
from intramuros.control.store.db import Tx
from intramuros.control.store.partitions import Partition
from intramuros.control.upkeep.attached import Attached
from intramuros.kernel.timing import SystemClock, to_micros


@dataclass(frozen=True)
class Stretch:
    """A partition of the log, its sessions, and how many of them would go.

    ``begins`` and ``ends`` are None where it has no such end. ``whole`` tells that it would be
    dropped in one piece.
    """

    partition: Partition
    begins: datetime | None
    ends: datetime | None
    sessions: int
    going: int
    whole: bool


@dataclass(frozen=True)
class Forecast:
    """What would go of each workspace, and what becomes of the log's partitions (PostgreSQL)."""

    shares: Sequence[Share]
    stretches: Sequence[Stretch]


def forecast(source: Attached, days: float) -> Forecast:
    """Return what would be deleted if sessions were kept for so many days after their end."""
    now = SystemClock().now()
    before_us = to_micros(now - timedelta(days=days))
    with snapshots.reading(source.db) as connection:
        tx = Tx(connection)
        stretches = []
        for part in partitions.found(connection):
            sessions, going = removal.between(tx, part.lower, part.upper, before_us)
            stretches.append(
                Stretch(
                    part,
                    partitions.time_of(part.lower),
                    partitions.time_of(part.upper or ""),
                    sessions,
                    going,
                    whole=part.ended(now) and sessions == going and bool(part.row_bytes),
                )
            )
        return Forecast(removal.shares(tx, before_us), stretches)
