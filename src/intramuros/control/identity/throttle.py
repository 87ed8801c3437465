"""Slows down whoever keeps presenting bad credentials.

Secrets have 256 random bits, so this is not what keeps them from being guessed; it keeps a broken
or hostile client from filling logs. Good credentials are never refused here, so nobody can lock
out others behind the same address.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from intramuros.kernel.timing import Clock

# Twenty at once cover a fleet that restarts with one stale key; then one every three seconds.
BURST: Final = 20
REFILL_PER_S: Final = 1 / 3
# About a megabyte; the address seen longest ago is forgotten first.
MAX_ADDRESSES: Final = 10_000


@dataclass
class _Bucket:
    left: float
    at_s: float


class FailureThrottle:
    """A token bucket of failures for each client address."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def fail(self, address: str) -> float | None:
        """Count a failure.

        Returns:
            None while the address is within its bounds, else the seconds after which it may
            fail again.
        """
        now_s = self._clock.monotonic()
        bucket = self._buckets.pop(address, None) or _Bucket(BURST, now_s)
        bucket.left = min(BURST, bucket.left + (now_s - bucket.at_s) * REFILL_PER_S)
        bucket.at_s = now_s
        self._buckets[address] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        if bucket.left < 1:
            return (1 - bucket.left) / REFILL_PER_S
        bucket.left -= 1
        return None
