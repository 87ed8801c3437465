from hypothesis import given
from hypothesis import strategies as st

from intramuros.tunnel.gateway import (
    MAX_REDIAL_S,
    MIN_REDIAL_S,
    QUICK_PHASE_S,
    QUICK_REDIAL_S,
    redial_delay_s,
)

RAND = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10_000), st.floats(0, QUICK_PHASE_S, exclude_max=True), RAND)
def test_a_short_outage_is_dialled_often_but_never_hot(
    attempt: int, outage_s: float, rand: float
) -> None:
    assert MIN_REDIAL_S <= redial_delay_s(attempt, outage_s, rand) <= QUICK_REDIAL_S


@given(st.integers(0, 10_000), st.floats(QUICK_PHASE_S, 1e9), RAND)
def test_a_long_outage_is_dialled_seldom(attempt: int, outage_s: float, rand: float) -> None:
    assert MIN_REDIAL_S <= redial_delay_s(attempt, outage_s, rand) <= MAX_REDIAL_S


def test_delays_are_spread() -> None:
    delays = {redial_delay_s(9, 1000, n / 10) for n in range(10)}
    assert len(delays) == 10


def test_t02_never_more_than_four_dials_a_second() -> None:
    assert 1 / redial_delay_s(0, 0, 0.0) <= 4
