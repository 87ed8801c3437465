"""Slows down whoever keeps presenting bad credentials.

Secrets have 256 random bits, so this is not what keeps them from being guessed; it keeps a broken
or hostile client from filling logs. Good credentials are never refused here, so nobody can lock
out others behind the same address.
"""

from collections import OrderedDict
from collections.abc import Callable
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
        self._note: Callable[[tuple[str, ...], float, float], None] | None = None

    def fail(self, address: str) -> float | None:
        """Count a failure.

        Returns:
            None while the address is within its bounds, else the seconds after which it may
            fail again.
        """
        bucket = self._look(address)
        if bucket.left < 1:
            return (1 - bucket.left) / REFILL_PER_S
        bucket.left -= 1
        if self._note is not None:
            self._note((address,), 1, REFILL_PER_S)
        return None

    def share(self, note: Callable[[tuple[str, ...], float, float], None]) -> None:
        """Call ``note`` with failures that are counted here: whose, how many, what is forgiven."""
        self._note = note

    def charge(self, key: tuple[str, ...], amount: float) -> bool:
        """Count what another process has counted; tell whether it is an address."""
        if len(key) != 1:
            return False
        bucket = self._look(key[0])
        bucket.left = min(BURST, max(0.0, bucket.left - amount))
        return True

    def _look(self, address: str) -> _Bucket:
        now_s = self._clock.monotonic()
        bucket = self._buckets.pop(address, None) or _Bucket(BURST, now_s)
        bucket.left = min(BURST, bucket.left + (now_s - bucket.at_s) * REFILL_PER_S)
        bucket.at_s = now_s
        self._buckets[address] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return bucket
