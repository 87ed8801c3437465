"""Clocks, timestamps on the wire, and back-off. The only file that reads the time."""

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Where time comes from; pass one in instead of asking the system."""

    def now(self) -> datetime:
        """Return the wall clock as an aware UTC datetime."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Return the wall clock as an aware UTC datetime."""
        return datetime.now(UTC)  # noqa: TID251  the one place that may

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told; for tests and replay."""

    def __init__(self, at: datetime | None = None) -> None:
        self._now = at or datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        """Return the time last set."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds advanced so far."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


def rfc3339(at: datetime) -> str:
    """Format an aware datetime as RFC 3339 in UTC with microseconds and a ``Z`` (contract 4.2)."""
    # Several of these are in every row of every list: isoformat takes a fifth of strftime's time.
    naive = (at if at.tzinfo is UTC else at.astimezone(UTC)).replace(tzinfo=None)
    return naive.isoformat(timespec="microseconds") + "Z"


@lru_cache(maxsize=4096)
def micros_rfc3339(micros: int) -> str:
    """Return :func:`rfc3339` of microseconds since the epoch, as rows keep them.

    Remembered, since the same rows are shown again and again.
    """
    at = _NAIVE_EPOCH + timedelta(microseconds=micros)
    return at.isoformat(timespec="microseconds") + "Z"


def parse_rfc3339(text: str) -> datetime:
    """Parse an RFC 3339 timestamp into an aware UTC datetime.

    Raises:
        ValueError: the text is no timestamp, has no offset, or is outside the years 1 to 9999.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("timestamp has no offset; write it as 2026-01-31T12:00:00Z")
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("timestamp is outside the years 1 to 9999 in UTC") from error


def to_micros(at: datetime) -> int:
    """Return microseconds since the epoch, exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """Return the aware UTC datetime of ``to_micros``'s result."""
    return _EPOCH + timedelta(microseconds=micros)


def backoff_s(attempt: int, base_s: float, cap_s: float, rand: float) -> float:
    """Return a full-jitter exponential delay in seconds, never zero.

    Args:
        attempt: 0 for the first retry.
        base_s: the first ceiling, in seconds.
        cap_s: the last ceiling, in seconds.
        rand: a number in [0, 1) from the caller's entropy.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. A tenth of the ceiling
    is the floor, so that a peer that is down is never dialled in a hot loop.
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt, 32))
    return ceiling * (0.1 + 0.9 * rand)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
