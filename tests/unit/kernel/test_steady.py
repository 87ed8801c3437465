from datetime import UTC, datetime, timedelta

import pytest

from intramuros.kernel.steady import BELIEVED_AFTER_S, SMALL_S, SteadyClock


class Machine:
    """A clock whose wall time can be wrong."""

    def __init__(self) -> None:
        self.wrong_s = 0.0
        self.passed_s = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed_s + self.wrong_s)

    def monotonic(self) -> float:
        return 1000.0 + self.passed_s


START = datetime(2026, 1, 1, tzinfo=UTC)


def settled() -> tuple[Machine, SteadyClock]:
    """A clock that was right for a minute."""
    machine = Machine()
    clock = SteadyClock(machine)
    machine.passed_s = BELIEVED_AFTER_S
    assert seconds(clock) == BELIEVED_AFTER_S
    return machine, clock


def seconds(clock: SteadyClock) -> float:
    return (clock.now() - START).total_seconds()


def test_time_goes_on_as_the_machine_says() -> None:
    machine = Machine()
    clock = SteadyClock(machine)
    for passed_s in (0.0, 1.0, 3600.0, 86400.0):
        machine.passed_s = passed_s
        assert seconds(clock) == passed_s
        assert clock.monotonic() == 1000.0 + passed_s


def test_small_corrections_are_followed_at_once_however_many() -> None:
    machine = Machine()
    clock = SteadyClock(machine)
    for step in range(1, 100):
        machine.passed_s = float(step)
        machine.wrong_s = SMALL_S * 0.9 * step
        assert seconds(clock) == pytest.approx(machine.passed_s + machine.wrong_s)


def test_a_jump_that_is_undone_never_was() -> None:
    for jump_s in (3600.0, -3600.0):
        machine, clock = settled()
        machine.wrong_s = jump_s
        for passed_s in (60.0, 70.0, 119.0):
            machine.passed_s = passed_s
            assert seconds(clock) == passed_s
        machine.wrong_s = 0.0
        machine.passed_s = 120.0
        assert seconds(clock) == 120.0
        # The next one begins to count anew.
        machine.wrong_s = jump_s
        machine.passed_s = 130.0
        assert seconds(clock) == 130.0


def test_a_jump_that_lasts_is_believed() -> None:
    machine, clock = settled()
    machine.wrong_s = -3600.0
    assert seconds(clock) == 60.0
    machine.passed_s = 120.0
    assert seconds(clock) == 120.0 - 3600.0
    machine.passed_s = 121.0
    assert seconds(clock) == 121.0 - 3600.0


def test_what_began_wrong_is_put_right_as_soon_as_it_was_wrong_for_short() -> None:
    machine = Machine()
    machine.wrong_s = 3600.0
    clock = SteadyClock(machine)
    machine.passed_s = 3.0
    assert seconds(clock) == 3603.0
    machine.wrong_s = 0.0
    assert seconds(clock) == 3603.0
    machine.passed_s = 6.0
    assert seconds(clock) == 6.0
    # And from here on it is trusted anew, from nothing.
    machine.passed_s = 16.0
    machine.wrong_s = 3600.0
    assert seconds(clock) == 16.0
    machine.passed_s = 25.0
    assert seconds(clock) == 25.0
    machine.passed_s = 26.0
    assert seconds(clock) == 3626.0
