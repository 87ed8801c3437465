"""Token buckets: what may be taken now, and how long to wait for more. Pure.

A bucket holds at most a period's worth and fills evenly, so nothing starts over at the turn of a
minute. It may go below nothing: what came out dearer than announced is paid by those who come next.
"""

import math
from dataclasses import dataclass
from typing import Final

# The longest wait that is told to anybody, in seconds; a limit of nothing never fills.
MAX_WAIT_S: Final = 3600.0
# Floating-point noise must not turn away who waited exactly as long as told.
_NOISE: Final = 1e-6


@dataclass
class Bucket:
    """One limit of one scope.

    Args:
        limit: what fits in, and what flows in during a period.
        level: what is in it at ``at_s``; a new one is full.
        at_s: seconds on a clock that never goes back.
        period_s: how long it takes to fill.
    """

    limit: int
    level: float
    at_s: float
    period_s: float = 60.0

    @classmethod
    def full(cls, limit: int, now_s: float, period_s: float = 60.0) -> "Bucket":
        """Return a full bucket."""
        return cls(limit, float(limit), now_s, period_s)

    def look(self, now_s: float) -> float:
        """Return what is in it now."""
        if now_s > self.at_s:
            gained = (now_s - self.at_s) * self.limit / self.period_s
            self.level = min(float(self.limit), self.level + gained)
            self.at_s = now_s
        return self.level

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return how long until so much can be taken, in seconds; 0 for now.

        Who wants more than fits in waits until it is full: else it would wait for ever.
        """
        lacking = min(amount, float(self.limit)) - self.look(now_s)
        if self.limit <= 0:
            return MAX_WAIT_S
        if lacking <= _NOISE * self.limit:
            return 0.0
        return min(MAX_WAIT_S, lacking * self.period_s / self.limit)

    def take(self, amount: float, now_s: float) -> None:
        """Take so much, even if it is not there; a negative amount is given back."""
        self.level = min(float(self.limit), self.look(now_s) - amount)

    def resize(self, limit: int, now_s: float) -> None:
        """Set another limit; what was used of the old one counts against the new one.

        A debt does not grow by it: lowering a limit stops at nothing left.
        """
        level = self.look(now_s)
        kept = limit - (self.limit - level)
        self.limit, self.level = limit, max(kept, min(level, 0.0))

    def remaining(self, now_s: float) -> int:
        """Return what can be taken now, in whole numbers and never below nothing."""
        return max(0, math.floor(self.look(now_s) + _NOISE))

    def full_in_s(self, now_s: float) -> float:
        """Return in how many seconds it is full."""
        lacking = self.limit - self.look(now_s)
        return lacking * self.period_s / self.limit if self.limit > 0 else MAX_WAIT_S
