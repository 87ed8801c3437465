"""Cron expressions, and the instants at which they match in a time zone. Pure.

Five fields are taken as every cron takes them: lists, ranges, steps, names of months and days. If
both day fields are restricted, either may match; a field that begins with a star restricts nothing,
as in Vixie's cron. Matching is literal on the zone's wall clock (contract-2 R216): a time that
does not exist never matches, one that comes twice matches twice. The library that searches the
calendar would, as Debian's cron does, move such times instead, so it is given wall-clock times
without a zone, for one stretch of constant offset after the other.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from cronsim import CronSim, CronSimError

MAX_EXPRESSION_CHARS: Final = 256
# Beyond it nothing is looked for: the rarest day, a 29 February on one weekday, comes every 40
# years at the latest.
HORIZON: Final = timedelta(days=50 * 365)

# Longer than clocks of a zone ever moved at once.
_WINDOW: Final = timedelta(hours=48)
# No zone changes its offset twice within this time.
_PROBE: Final = timedelta(hours=6)
_SECOND: Final = timedelta(seconds=1)
_TICK: Final = timedelta(microseconds=1)

_NAMES: Final = ("minute", "hour", "day-of-month", "month", "day-of-week")
_MONTHS: Final = "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"
_DAYS: Final = "SUN|MON|TUE|WED|THU|FRI|SAT"


def _term(value: str) -> "re.Pattern[str]":
    one = rf"(?:\*|(?:{value})(?:-(?:{value}))?)(?:/\d{{1,2}})?"
    return re.compile(rf"{one}(?:,{one})*", re.ASCII | re.IGNORECASE)


_NUMBER: Final = _term(r"\d{1,2}")
_FIELDS: Final = (
    _NUMBER,
    _NUMBER,
    _NUMBER,
    _term(rf"\d{{1,2}}|{_MONTHS}"),
    _term(rf"[0-7]|{_DAYS}"),
)


class BadExpression(ValueError):
    """No expression that this server runs; the text says which field and why."""


@dataclass(frozen=True)
class Cron:
    """A checked expression, as the library takes it; make it with :func:`parse`."""

    expression: str

    def times(self, zone: tzinfo, after: datetime) -> Iterator[datetime]:
        """Yield each instant behind ``after`` at which the zone's wall clock matches, in order.

        Ends at the :data:`HORIZON`, or where no date will match any more.

        Args:
            zone: as :func:`zones.zone` gives it.
            after: an aware time.
        """
        begin, until = after.astimezone(UTC), after.astimezone(UTC) + HORIZON
        while begin < until:
            stretch = _stretch(zone, begin)
            wall = (begin + stretch.offset).replace(tzinfo=None)
            found, next_at = False, None
            for match in CronSim(self.expression, wall):
                next_at = match.replace(tzinfo=UTC) - stretch.offset
                if next_at >= stretch.end:
                    break
                found = True
                yield next_at
            if next_at is None or next_at < stretch.end:
                return
            begin = stretch.end - _TICK
            if stretch.whole and not found:
                # Nothing matched for longer than clocks are ever put back, so that no time that
                # comes twice can match before the window in front of the next date.
                begin = max(begin, next_at - _WINDOW - _TICK)


def parse(expression: str) -> Cron:
    """Return the expression if it can ever match (contract-2 R215, Q19).

    Raises:
        BadExpression: it is no POSIX expression of five fields, or names a day that no month has.
    """
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise BadExpression(f"must have at most {MAX_EXPRESSION_CHARS} characters")
    if expression.lstrip().startswith("@"):
        raise BadExpression("shortcuts such as @daily are not supported; write five fields")
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        raise BadExpression(
            f"must have five fields (minute hour day-of-month month day-of-week), got {len(fields)}"
        )
    for name, field, pattern in zip(_NAMES, fields, _FIELDS, strict=True):
        if not pattern.fullmatch(field):
            raise BadExpression(
                f"{name}: {field[:40]!r} is not supported; write numbers, *, lists, ranges, steps"
            )
    plain = " ".join(",".join(map(_term_as_meant, field.split(","))) for field in fields)
    try:
        CronSim(plain, datetime(2000, 1, 1))  # noqa: DTZ001  a wall-clock time
    except CronSimError as error:
        reason = str(error).removeprefix("Bad ")
        raise BadExpression(f"{reason}: out of range, or a day that never comes") from error
    return Cron(plain)


def _term_as_meant(term: str) -> str:
    """Return ``4`` for ``4-4/5``, which the library would take for ``4/5``, up to the end."""
    ends, _, step = term.partition("/")
    first, _, last = ends.partition("-")
    return first if step and last and _number(first) == _number(last) else term


def _number(value: str) -> int:
    """Return what a value stands for, as far as one field can spell it in two ways."""
    names = (_MONTHS if value.upper() in _MONTHS else _DAYS).split("|")
    if value.upper() in names:
        return names.index(value.upper()) + (names[0] == "JAN")
    return int(value)


@dataclass(frozen=True)
class _Stretch:
    """A time of constant offset: from where it was asked for until ``end`` (exclusive, UTC).

    ``whole`` tells that it was cut off after a window, not by a change of the offset.
    """

    end: datetime
    offset: timedelta
    whole: bool


def _stretch(zone: tzinfo, begin: datetime) -> _Stretch:
    first = begin + _TICK
    offset, low = _offset(zone, first), first
    while low < first + _WINDOW:
        high = low + _PROBE
        if _offset(zone, high) != offset:
            return _Stretch(_change(zone, low, high), offset, whole=False)
        low = high
    return _Stretch(low, offset, whole=True)


def _change(zone: tzinfo, low: datetime, high: datetime) -> datetime:
    """Return the second from which on the offset is another than at ``low``."""
    offset = _offset(zone, low)
    low, high = low.replace(microsecond=0), high.replace(microsecond=0)
    while high - low > _SECOND:
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if _offset(zone, middle) == offset:
            low = middle
        else:
            high = middle
    return high


def _offset(zone: tzinfo, at: datetime) -> timedelta:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None, "a zone knows its offset"
    return offset
