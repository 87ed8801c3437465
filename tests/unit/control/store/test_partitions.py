"""What ids tell of time; the rest needs a PostgreSQL (tests/integration/control/store)."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from intramuros.control.store.db import Database
from intramuros.control.store.partitions import (
    Partition,
    bound_at,
    found,
    next_month,
    time_of,
    whole,
)
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
MOMENT = timedelta(milliseconds=1)


def test_a_bound_parts_sessions_by_when_they_were_made() -> None:
    clock = ManualClock(NOON)
    ids = IdFactory(clock, os.urandom)
    at = bound_at(NOON)
    assert at <= IdFactory(clock, bytes).new("sesn") < bound_at(NOON + MOMENT)
    assert all(at <= ids.new("sesn") < bound_at(NOON + MOMENT) for _ in range(100))
    before = IdFactory(ManualClock(NOON - MOMENT), lambda count: b"\xff" * count)
    assert before.new("sesn") < at
    assert time_of(at) == time_of(ids.new("sesn")) == NOON


@pytest.mark.parametrize(
    "text",
    ["", "sesn_", "sesn_1", "sesn_01ABC", "sesn_!!!!!!!!!!", "wrong_01KAAAAAAA", "sesn_ZZZZZZZZZZ"],
)
def test_not_every_id_tells_a_time(text: str) -> None:
    assert time_of(text) is None


@pytest.mark.parametrize(
    ("at", "then"),
    [
        ("2026-11-22T12:00:00+00:00", "2026-12-01T00:00:00+00:00"),
        ("2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        ("2024-01-31T23:59:59+00:00", "2024-02-01T00:00:00+00:00"),
        ("2026-11-30T23:30:00-02:00", "2027-01-01T00:00:00+00:00"),
    ],
)
def test_months_are_of_utc(at: str, then: str) -> None:
    assert next_month(datetime.fromisoformat(at)) == datetime.fromisoformat(then)


def test_partitions_that_follow_each_other_are_whole() -> None:
    one, two = Partition("a", "", "sesn_1"), Partition("b", "sesn_1", None)
    assert whole([one, two])
    assert whole([Partition("a", "", None)])
    for parts in ([], [one], [two], [one, Partition("b", "sesn_2", None)]):
        assert not whole(parts)
    assert one.holds("sesn_0")
    assert not one.holds("sesn_1")
    assert two.holds("sesn_1")
    assert not two.ended(NOON)
    assert Partition("a", "", bound_at(NOON)).ended(NOON)
    assert not Partition("a", "", bound_at(NOON + MOMENT)).ended(NOON)


def test_sqlite_has_none(tmp_path: object) -> None:
    db = Database.open(f"sqlite:///{tmp_path}/x.db")
    with db.engine.connect() as connection:
        assert found(connection) == []
    db.close()
