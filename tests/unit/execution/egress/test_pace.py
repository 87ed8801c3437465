import pytest

from intramuros.execution.egress.pace import Pace


def test_a_burst_passes_at_once_and_the_rest_waits_its_turn() -> None:
    pace = Pace(10, 3, at=100.0)
    assert [pace.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert pace.take(100.0) == pytest.approx(0.1)
    assert pace.take(100.0) == pytest.approx(0.2)


def test_permits_come_back_and_never_more_than_a_burst() -> None:
    pace = Pace(10, 3, at=0.0)
    assert [pace.take(1000.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert pace.take(1000.0) == pytest.approx(0.1)
    assert pace.take(1001.0) == 0.0


def test_a_clock_that_stands_still_gives_nothing_for_free() -> None:
    pace = Pace(1, 1, at=5.0)
    assert pace.take(5.0) == 0.0
    assert pace.take(4.0) == pytest.approx(1.0)


@pytest.mark.parametrize(("per_s", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_pace_that_never_moves_is_refused(per_s: float, burst: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        Pace(per_s, burst, 0.0)


def test_many_permits_may_be_taken_at_once_and_are_paid_for_after() -> None:
    pace = Pace(100, 50, at=0.0)
    assert pace.take(0.0, 50) == 0.0
    assert pace.take(0.0, 200) == pytest.approx(2.0)
    assert pace.take(2.0) == pytest.approx(0.01)
