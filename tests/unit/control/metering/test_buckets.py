import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.metering.buckets import MAX_WAIT_S, Bucket


def test_a_full_bucket_gives_its_limit_at_once_and_then_evenly() -> None:
    bucket = Bucket.full(60, 0.0)
    for _ in range(60):
        assert bucket.wait_s(1, 0.0) == 0
        bucket.take(1, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(1.0)
    assert bucket.remaining(0.0) == 0
    assert bucket.remaining(30.0) == 30
    assert bucket.full_in_s(30.0) == pytest.approx(30.0)
    assert bucket.remaining(1e6) == 60


def test_who_waits_as_long_as_told_is_let_in() -> None:
    bucket = Bucket.full(7, 0.0)
    bucket.take(7, 0.0)
    now = 0.0
    for _ in range(50):
        now += bucket.wait_s(1, now)
        assert bucket.wait_s(1, now) == 0
        bucket.take(1, now)


def test_more_than_fits_waits_until_it_is_full_and_is_owed() -> None:
    bucket = Bucket.full(100, 0.0)
    assert bucket.wait_s(1000, 0.0) == 0
    bucket.take(1000, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(60 * 901 / 100)


def test_what_is_given_back_never_overflows() -> None:
    bucket = Bucket.full(10, 0.0)
    bucket.take(-5, 0.0)
    assert bucket.remaining(0.0) == 10


def test_a_limit_of_nothing_never_fills() -> None:
    bucket = Bucket.full(0, 0.0)
    assert bucket.wait_s(1, 1e9) == MAX_WAIT_S
    assert bucket.wait_s(0, 1e9) == MAX_WAIT_S
    assert bucket.full_in_s(0.0) == MAX_WAIT_S


@pytest.mark.parametrize(
    ("used", "limit", "left"),
    [(60, 10, 0), (5, 10, 5), (0, 10, 10), (60, 200, 140), (150, 10, -50)],
)
def test_what_was_used_counts_against_a_new_limit(used: int, limit: int, left: int) -> None:
    bucket = Bucket.full(100, 0.0)
    bucket.take(used, 0.0)
    bucket.resize(limit, 0.0)
    assert bucket.level == left


def test_a_clock_that_steps_back_gives_nothing() -> None:
    bucket = Bucket.full(60, 100.0)
    bucket.take(60, 100.0)
    assert bucket.remaining(50.0) == 0
    assert bucket.remaining(101.0) == 1


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 50)), max_size=50),
)
def test_no_more_than_the_limit_and_the_inflow_ever_comes_out(
    limit: int, asks: list[tuple[float, int]]
) -> None:
    bucket, now, taken = Bucket.full(limit, 0.0), 0.0, 0
    for pause, amount in asks:
        now += pause
        if amount <= limit and bucket.wait_s(amount, now) == 0:
            bucket.take(amount, now)
            taken += amount
    assert taken <= limit + now * limit / 60 + 1e-3 * limit
