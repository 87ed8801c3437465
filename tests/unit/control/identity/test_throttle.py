from intramuros.control.identity.throttle import BURST, MAX_ADDRESSES, FailureThrottle
from intramuros.kernel.timing import ManualClock


def test_a_burst_is_let_through_then_one_failure_every_three_seconds() -> None:
    clock = ManualClock()
    throttle = FailureThrottle(clock)
    assert [throttle.fail("a") for _ in range(BURST)] == [None] * BURST
    wait_s = throttle.fail("a")
    assert wait_s is not None
    assert 2.9 < wait_s <= 3
    clock.advance(3.1)
    assert throttle.fail("a") is None
    assert throttle.fail("a") is not None


def test_addresses_are_counted_apart() -> None:
    throttle = FailureThrottle(ManualClock())
    while throttle.fail("a") is None:
        pass
    assert throttle.fail("b") is None


def test_a_quiet_address_gets_its_burst_back_but_no_more() -> None:
    clock = ManualClock()
    throttle = FailureThrottle(clock)
    while throttle.fail("a") is None:
        pass
    clock.advance(1_000_000)
    assert [throttle.fail("a") for _ in range(BURST)] == [None] * BURST
    assert throttle.fail("a") is not None


def test_memory_is_bounded_and_the_oldest_address_is_forgotten() -> None:
    throttle = FailureThrottle(ManualClock())
    while throttle.fail("first") is None:
        pass
    for index in range(MAX_ADDRESSES):
        throttle.fail(f"other {index}")
    assert len(throttle._buckets) == MAX_ADDRESSES
    assert throttle.fail("first") is None


def test_failures_that_another_process_counted_count_here_and_never_below_nothing() -> None:
    clock, told = ManualClock(), []
    throttle = FailureThrottle(clock)
    throttle.share(lambda *counted: told.append(counted))
    assert throttle.fail("a") is None
    assert throttle.charge(("a",), BURST + 100)
    assert throttle.fail("a") is not None
    clock.advance(3.1)
    assert throttle.fail("a") is None
    assert told == [(("a",), 1, 1 / 3)] * 2
    assert not throttle.charge(("a", "b"), 1)
