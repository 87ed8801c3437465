from collections.abc import Callable

from intramuros.kernel.timing import ManualClock
from intramuros.tunnel.limits import OverLimit, RouteLimits
from intramuros.tunnel.meters import MINUTE_S, Meters


def entered(found: OverLimit | Callable[[], None]) -> Callable[[], None]:
    assert not isinstance(found, OverLimit), found
    return found


def test_so_many_at_once_and_each_place_is_free_again() -> None:
    meters, limits = Meters(ManualClock()), RouteLimits(concurrent=2)
    first, _ = (entered(meters.enter("docs", limits, 0)) for _ in range(2))
    full = meters.enter("docs", limits, 0)
    assert full == OverLimit("max_concurrent", 2, 429, 1)
    # Another route has places of its own.
    entered(meters.enter("wiki", limits, 0))
    first()
    entered(meters.enter("docs", limits, 0))
    assert isinstance(meters.enter("docs", limits, 0), OverLimit)
    # A limit that was raised counts at once, and so does one that is gone.
    entered(meters.enter("docs", RouteLimits(concurrent=3), 0))
    entered(meters.enter("docs", RouteLimits(), 0))


def test_no_minute_has_more_than_its_number() -> None:
    clock, limits = ManualClock(), RouteLimits(per_minute=3)
    meters, times = Meters(clock), []
    for _ in range(600):
        if not isinstance(meters.enter("docs", limits, 0), OverLimit):
            times.append(clock.monotonic())
        clock.advance(0.5)
    assert len(times) == 15
    assert all(
        later - earlier >= MINUTE_S for earlier, later in zip(times, times[3:], strict=False)
    )


def test_who_waits_as_long_as_told_is_let_in() -> None:
    clock, limits = ManualClock(), RouteLimits(per_minute=2)
    meters = Meters(clock)
    entered(meters.enter("docs", limits, 0))
    clock.advance(10.2)
    entered(meters.enter("docs", limits, 0))
    over = meters.enter("docs", limits, 0)
    assert over == OverLimit("calls_per_minute", 2, 429, 50)
    clock.advance(50)
    entered(meters.enter("docs", limits, 0))
    assert isinstance(meters.enter("docs", limits, 0), OverLimit)
    # A lowered limit waits until so many are old.
    lower = meters.enter("docs", RouteLimits(per_minute=1), 0)
    assert isinstance(lower, OverLimit)
    assert lower.retry_after_s == 60


def test_what_is_refused_takes_no_place() -> None:
    meters, limits = Meters(ManualClock()), RouteLimits(1, 1, 10)
    assert meters.enter("docs", limits, 11) == OverLimit("max_body_bytes", 10, 413)
    leave = entered(meters.enter("docs", limits, 10))
    for _ in range(3):
        assert isinstance(meters.enter("docs", limits, 0), OverLimit)
    leave()
    assert meters.enter("docs", RouteLimits(1), 0) is not None
    entered(meters.enter("docs", RouteLimits(2, 2), 0))
