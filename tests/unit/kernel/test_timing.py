from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.kernel.timing import (
    ManualClock,
    SystemClock,
    backoff_s,
    from_micros,
    parse_rfc3339,
    rfc3339,
    to_micros,
)

AWARE = st.datetimes(min_value=datetime(1971, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  hypothesis adds the zone


@given(AWARE)
def test_timestamps_survive_the_wire_and_the_store_to_the_microsecond(at: datetime) -> None:
    assert parse_rfc3339(rfc3339(at)) == at
    assert from_micros(to_micros(at)) == at


@given(AWARE, AWARE)
def test_written_timestamps_sort_like_the_times(a: datetime, b: datetime) -> None:
    assert (rfc3339(a) < rfc3339(b)) == (a < b)


def test_other_zones_become_utc() -> None:
    at = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(at) == "2026-02-28T23:30:00.000000Z"
    assert parse_rfc3339("2026-03-01T01:30:00+02:00").tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-03-01T01:30:00",
        "2026-13-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_what_is_no_timestamp_with_an_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_rfc3339(text)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_never_zero_and_never_above_its_cap(attempt: int, rand: float) -> None:
    delay = backoff_s(attempt, 0.5, 30.0, rand)
    ceiling = min(30.0, 0.5 * 2.0 ** min(attempt, 32))
    assert ceiling * 0.1 <= delay <= ceiling


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    before = clock.now(), clock.monotonic()
    assert (clock.now(), clock.monotonic()) == before
    clock.advance(1.5)
    assert clock.now() - before[0] == timedelta(seconds=1.5)
    assert clock.monotonic() - before[1] == 1.5


def test_the_system_clock_is_aware_and_never_goes_back() -> None:
    clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)
