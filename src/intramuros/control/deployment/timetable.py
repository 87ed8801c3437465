"""When a deployment's next run is due. Pure: times come in and go out.

A *nominal* time is one that the expression names; the run itself starts a little later, by a delay
that is the deployment's own and always the same share of the way to the following time, so that
many deployments of the same minute do not start at once (contract-2 R219, Q20).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta, tzinfo
from itertools import pairwise
from typing import Final

from intramuros.control.deployment.cron import Cron
from intramuros.kernel.timing import from_micros, to_micros

SECOND_US: Final = 1_000_000
MIN_DELAY_US: Final = 5 * SECOND_US
MAX_DELAY_US: Final = 9 * 60 * SECOND_US
_PERCENT: Final = 15
# How late a run may still start (contract-2 Q21), in microseconds.
GRACE_US: Final = 10 * 60 * SECOND_US
UPCOMING: Final = 5


@dataclass(frozen=True)
class Fire:
    """One run: at which time it is named, and when it starts; microseconds since the epoch."""

    nominal_us: int
    at_us: int


@dataclass(frozen=True)
class Plan:
    """What is to be done now and what next.

    Args:
        run: the run that is due, or None.
        next: the first one that is not; None if none will ever be.
        missed: the first one that was due, and is not ``run``, or None.
    """

    run: Fire | None
    next: Fire | None
    missed: Fire | None = None


@dataclass(frozen=True)
class Timetable:
    """The times of one deployment."""

    deployment_id: str
    cron: Cron
    zone: tzinfo

    def upcoming(self, after_us: int, count: int = UPCOMING) -> list[int]:
        """Return the next nominal times behind ``after_us`` (contract-2 R217)."""
        times = self._nominal(after_us)
        return [at_us for at_us, _ in zip(times, range(count), strict=False)]

    def first(self, after_us: int) -> Fire | None:
        """Return the first run whose nominal time is behind ``after_us``."""
        return next(self._fires(after_us), None)

    def plan(self, pending_us: int, now_us: int) -> Plan:
        """Return what is due, looking at the nominal times from ``pending_us`` on.

        Of several that are due only the latest is run, and only within the grace.
        """
        # Whatever is nominally older is too late, however long the server was down.
        oldest_us = now_us - GRACE_US - MAX_DELAY_US
        due: list[Fire] = []
        following = None
        for fire in self._fires(max(pending_us, oldest_us) - 1):
            if fire.at_us > now_us:
                following = fire
                break
            due.append(fire)
        run = due[-1] if due and now_us - due[-1].at_us <= GRACE_US else None
        if pending_us < oldest_us:
            return Plan(run, following, Fire(pending_us, pending_us))
        return Plan(run, following, due[0] if due and due[0] != run else None)

    def _fires(self, after_us: int) -> Iterator[Fire]:
        last_us = None
        for at_us, following_us in pairwise(self._nominal(after_us)):
            yield Fire(at_us, at_us + self._delay_us(following_us - at_us))
            last_us = following_us
        if last_us is None:
            last_us = next(self._nominal(after_us), None)
        if last_us is not None:
            # The last one before the calendar's horizon: nothing comes close behind it.
            yield Fire(last_us, last_us + self._delay_us(_LONG_US))

    def _delay_us(self, gap_us: int) -> int:
        """Return by how much a run trails its nominal time, given the time to the next one."""
        longest_us = min(max(gap_us * _PERCENT // 100, MIN_DELAY_US), MAX_DELAY_US)
        digest = hashlib.sha256(self.deployment_id.encode()).digest()
        share = int.from_bytes(digest[:4])
        return MIN_DELAY_US + (longest_us - MIN_DELAY_US) * share // 2**32

    def _nominal(self, after_us: int) -> Iterator[int]:
        for at in self.cron.times(self.zone, from_micros(after_us)):
            yield to_micros(at)


_LONG_US: Final = timedelta(days=365) // timedelta(microseconds=1)
