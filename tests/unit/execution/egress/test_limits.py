import anyio
import pytest

from intramuros.execution.egress.limits import EgressLimits, LimitReached, Meter
from intramuros.kernel.timing import ManualClock

pytestmark = pytest.mark.anyio


async def test_connections_are_counted_and_given_back() -> None:
    meter = Meter(EgressLimits(connections=2), ManualClock())
    with meter.connection(), meter.connection():
        with pytest.raises(LimitReached) as caught, meter.connection():
            pass
        assert caught.value.rule == "connections"
    with meter.connection():
        pass


async def test_a_burst_is_free_and_then_the_rate_counts() -> None:
    clock = ManualClock()
    meter = Meter(EgressLimits(rate=10, burst=3, patience_s=0.0), clock)
    for _ in range(3):
        await meter.turn()
    with pytest.raises(LimitReached) as caught:
        await meter.turn()
    assert caught.value.rule == "rate"
    clock.advance(0.1)
    await meter.turn()
    with pytest.raises(LimitReached):
        await meter.turn()
    clock.advance(1000)
    for _ in range(3):
        await meter.turn()
    with pytest.raises(LimitReached):
        await meter.turn()


async def test_a_little_too_fast_is_held_back() -> None:
    meter = Meter(EgressLimits(rate=100, burst=1, patience_s=1.0), ManualClock())
    await meter.turn()
    with anyio.fail_after(60):
        await meter.turn()


async def test_what_is_too_much_is_told_of_once_in_a_while() -> None:
    clock = ManualClock()
    meter = Meter(EgressLimits(), clock)
    assert [meter.tells() for _ in range(3)] == [True, False, False]
    clock.advance(1.0)
    assert [meter.tells() for _ in range(3)] == [True, False, False]


async def test_bytes_are_counted_before_they_go() -> None:
    meter = Meter(EgressLimits(sent_bytes=10, received_bytes=5), ManualClock())
    meter.send(10)
    meter.receive(5)
    with pytest.raises(LimitReached) as sent:
        meter.send(1)
    with pytest.raises(LimitReached) as received:
        meter.receive(1)
    assert (sent.value.rule, received.value.rule) == ("sent_bytes", "received_bytes")
    assert (meter.sent, meter.received) == (10, 5)


async def test_bytes_that_come_too_fast_are_held_back() -> None:
    meter = Meter(EgressLimits(bytes_per_s=1000.0, bytes_burst=100), ManualClock())
    with anyio.fail_after(60):
        await meter.hold(100)
    with anyio.move_on_after(0.05) as scope:
        await meter.hold(100)
    assert scope.cancelled_caught
