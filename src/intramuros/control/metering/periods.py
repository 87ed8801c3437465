"""Days, weeks and months by the calendar, in UTC. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Final

DAY_US: Final = 86_400_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def start_us(period: str, at_us: int) -> int:
    """Return when the period began that a time falls into, microseconds since the epoch.

    Args:
        period: daily, weekly (from Monday) or monthly.
        at_us: microseconds since the epoch.
    """
    return _micros(_start(period, _datetime(at_us)))


def end_us(period: str, at_us: int) -> int:
    """Return when that period ends and the next begins."""
    start = _start(period, _datetime(at_us))
    if period == "monthly":
        # No month has more days, and all have more than the few that are too many.
        return _micros(_start(period, start + timedelta(days=31)))
    return _micros(start + timedelta(days=7 if period == "weekly" else 1))


def _start(period: str, at: datetime) -> datetime:
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "monthly":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if period == "weekly" else day


def _datetime(at_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_us)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
