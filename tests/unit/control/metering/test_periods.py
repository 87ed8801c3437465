from datetime import UTC, datetime

import pytest

from intramuros.control.metering.periods import end_us, start_us
from intramuros.kernel.timing import from_micros, to_micros


def at(text: str) -> int:
    return to_micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("period", "time", "start", "end"),
    [
        ("daily", "2026-11-21T23:59:59.999999", "2026-11-21", "2026-11-22"),
        ("daily", "2026-11-22T00:00:00", "2026-11-22", "2026-11-23"),
        ("weekly", "2026-11-22T23:59:59", "2026-11-16", "2026-11-23"),
        ("weekly", "2026-11-23T00:00:00", "2026-11-23", "2026-11-30"),
        ("monthly", "2026-11-30T23:59:59.999999", "2026-11-01", "2026-12-01"),
        ("monthly", "2026-12-01T00:00:00", "2026-12-01", "2027-01-01"),
        ("monthly", "2026-02-14T12:00:00", "2026-02-01", "2026-03-01"),
        ("monthly", "2028-02-29T12:00:00", "2028-02-01", "2028-03-01"),
        ("monthly", "2026-12-31T12:00:00", "2026-12-01", "2027-01-01"),
    ],
)
def test_periods_follow_the_calendar(period: str, time: str, start: str, end: str) -> None:
    assert from_micros(start_us(period, at(time))).isoformat()[:10] == start
    assert from_micros(end_us(period, at(time))).isoformat()[:10] == end
    assert start_us(period, at(time)) <= at(time) < end_us(period, at(time))
