from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intramuros.control.deployment.cron import parse
from intramuros.control.deployment.timetable import (
    GRACE_US,
    MAX_DELAY_US,
    MIN_DELAY_US,
    SECOND_US,
    Fire,
    Plan,
    Timetable,
)
from intramuros.control.deployment.zones import zone
from intramuros.kernel.timing import to_micros

MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
NOON_US = to_micros(datetime(2026, 6, 1, 12, tzinfo=UTC))


def table(expression: str, name: str = "UTC", deployment_id: str = "depl_a") -> Timetable:
    return Timetable(deployment_id, parse(expression), zone(name))


def first(timetable: Timetable, after_us: int = NOON_US) -> Fire:
    fire = timetable.first(after_us)
    assert fire is not None
    return fire


def delay_us(expression: str, deployment_id: str) -> int:
    fire = first(table(expression, deployment_id=deployment_id))
    return fire.at_us - fire.nominal_us


IDS = [f"depl_{number}" for number in range(500)]


@pytest.mark.parametrize(
    ("expression", "gap_us"),
    [("* * * * *", MINUTE_US), ("0 * * * *", HOUR_US), ("0 0 * * *", 24 * HOUR_US)],
)
def test_R219_Q20_the_delay_is_the_deployments_own_and_within_bounds(
    expression: str, gap_us: int
) -> None:
    longest_us = min(gap_us * 15 // 100, MAX_DELAY_US)
    delays = [delay_us(expression, deployment_id) for deployment_id in IDS]
    assert min(delays) >= MIN_DELAY_US == 5 * SECOND_US
    assert max(delays) <= longest_us <= 9 * MINUTE_US
    # They spread over all of that room, and each stays what it is.
    assert max(delays) - min(delays) > 0.9 * (longest_us - MIN_DELAY_US)
    assert delays == [delay_us(expression, deployment_id) for deployment_id in IDS]


def test_R219_no_run_starts_behind_the_following_time() -> None:
    """Twenty minutes, then twelve hours: the share is of the way that lies ahead."""
    timetable = table("0,20 0,12 * * *")
    at_us = NOON_US - 1
    for _ in range(8):
        fire, following = (
            first(timetable, at_us),
            first(timetable, first(timetable, at_us).nominal_us),
        )
        gap_us = following.nominal_us - fire.nominal_us
        assert MIN_DELAY_US <= fire.at_us - fire.nominal_us <= min(gap_us * 15 // 100, MAX_DELAY_US)
        at_us = fire.nominal_us


def test_R217_upcoming_are_five_times_without_the_delay() -> None:
    assert table("*/10 * * * *").upcoming(NOON_US) == [
        NOON_US + n * 10 * MINUTE_US for n in range(1, 6)
    ]
    assert len(table("0 0 29 2 */7").upcoming(NOON_US)) == 2


def test_nothing_is_due_before_the_delay_is_over() -> None:
    timetable = table("0 * * * *")
    fire = first(timetable)
    plan = timetable.plan(fire.nominal_us, fire.at_us - 1)
    assert plan == Plan(None, fire)


def test_what_is_due_is_run_and_the_next_one_is_behind_it() -> None:
    timetable = table("0 * * * *")
    fire = first(timetable)
    plan = timetable.plan(fire.nominal_us, fire.at_us)
    assert plan == Plan(fire, first(timetable, fire.nominal_us))


def test_Q21_ten_minutes_late_is_run_and_later_is_not() -> None:
    timetable = table("0 */6 * * *")
    fire, following = first(timetable), first(timetable, first(timetable).nominal_us)
    assert timetable.plan(fire.nominal_us, fire.at_us + GRACE_US) == Plan(fire, following)
    late = timetable.plan(fire.nominal_us, fire.at_us + GRACE_US + 1)
    assert late == Plan(None, following, fire)


def test_Q21_never_more_than_one_is_made_up() -> None:
    timetable = table("* * * * *")
    fire = first(timetable)
    plan = timetable.plan(fire.nominal_us, fire.at_us + 5 * MINUTE_US)
    assert plan.run is not None
    assert plan.run.nominal_us == fire.nominal_us + 5 * MINUTE_US
    assert plan.missed == fire
    assert plan.next is not None
    assert plan.next.nominal_us == plan.run.nominal_us + MINUTE_US


def test_Q21_a_year_away_costs_no_more_than_an_hour() -> None:
    timetable = table("* * * * *")
    fire = first(timetable)
    plan = timetable.plan(fire.nominal_us, fire.at_us + 365 * 24 * HOUR_US)
    assert plan.missed is not None
    assert plan.missed.nominal_us == fire.nominal_us
    assert plan.run is not None
    assert fire.at_us + 365 * 24 * HOUR_US - plan.run.at_us <= GRACE_US


def test_a_clock_that_was_put_back_makes_nothing_due() -> None:
    timetable = table("* * * * *")
    fire = first(timetable)
    plan = timetable.plan(fire.nominal_us, NOON_US - 24 * HOUR_US)
    assert plan == Plan(None, fire)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "0,20 1-4 * * *", "30 1 * * *"]),
    st.sampled_from(["UTC", "Europe/Dublin", "Australia/Lord_Howe"]),
    st.lists(st.integers(-90, 1500), min_size=1, max_size=60),
)
def test_R221_whatever_the_clock_does_no_time_runs_twice(
    expression: str, name: str, steps: list[int]
) -> None:
    """Follow a scheduler over hours of steps, some back: each nominal time runs at most once."""
    timetable = table(expression, name)
    now_us = to_micros(datetime(2026, 10, 24, 22, tzinfo=UTC))
    pending = first(timetable, now_us)
    ran: list[int] = []
    for step_s in steps:
        now_us += step_s * SECOND_US
        plan = timetable.plan(pending.nominal_us, now_us)
        if plan.run:
            assert now_us - GRACE_US <= plan.run.at_us <= now_us
            ran.append(plan.run.nominal_us)
        assert plan.next is not None
        assert plan.next.at_us > now_us
        pending = plan.next
    assert ran == sorted(set(ran))
