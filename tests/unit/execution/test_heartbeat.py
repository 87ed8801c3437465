from collections.abc import Sequence

import anyio
import pytest

from intramuros.execution import heartbeat
from intramuros.execution.client import NO_HEARTBEAT, Away, Beat, LeaseLost, Refused
from intramuros.execution.heartbeat import End, Lease, heartbeat_loop, interval_of
from intramuros.kernel.timing import ManualClock

pytestmark = pytest.mark.anyio


class ScriptedHeart:
    """Answers each heartbeat from a script, and moves the clock before it does."""

    def __init__(self, clock: ManualClock, script: Sequence[Beat | Exception]) -> None:
        self.clock = clock
        self.script = list(script)
        self.expected: list[str] = []
        self.asked_s: list[int | None] = []
        self.step_s = 1.0

    async def heartbeat(self, expected: str, *, ttl_s: int | None = None) -> Beat:
        self.expected.append(expected)
        self.asked_s.append(ttl_s)
        self.clock.advance(self.step_s)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "MIN_INTERVAL_S", 0.01)
    monkeypatch.setattr(heartbeat, "MAX_INTERVAL_S", 0.01)


def alive(last: str, ttl_s: float = 300) -> Beat:
    return Beat(last, True, "active", ttl_s)


async def beat(script: Sequence[Beat | Exception], step_s: float = 1.0) -> tuple[Lease, list[str]]:
    clock = ManualClock()
    heart, lease = ScriptedHeart(clock, script), Lease()
    heart.step_s = step_s
    with anyio.fail_after(60):
        await heartbeat_loop(heart, lease, clock)
    return lease, heart.expected


async def test_each_beat_echoes_the_one_before() -> None:
    lease, expected = await beat([alive("t1"), alive("t2", 60), Beat("t2", False, "stopping", 60)])
    assert expected == [NO_HEARTBEAT, "t1", "t2"]
    assert (lease.end, lease.last, lease.ttl_s) == (End.STOPPING, "t2", 60)


async def test_each_beat_asks_for_the_lease_that_is_wanted() -> None:
    clock, lease = ManualClock(), Lease()
    heart = ScriptedHeart(clock, [alive("t1"), alive("t2"), LeaseLost("412")])
    with anyio.fail_after(60):
        await heartbeat_loop(heart, lease, clock, 30)
    assert heart.asked_s == [30, 30, 30]


@pytest.mark.parametrize(
    ("last", "end", "ours"),
    [
        (LeaseLost("412"), End.LOST, False),
        (Refused("401", 401), End.REJECTED, True),
        (Beat("x", False, "stopping", 9), End.STOPPING, True),
        (Beat("x", False, "stopped", 9), End.STOPPED, True),
        (Beat("x", False, "active", 9), End.STOPPED, True),
    ],
)
async def test_what_ends_a_lease(last: Beat | Exception, end: End, ours: bool) -> None:
    lease, _ = await beat([alive("t1"), last])
    assert (lease.end, lease.ours) == (end, ours)


async def test_failures_within_a_ttl_are_survived() -> None:
    script = [alive("t1", 10), Away("503"), TimeoutError(), Away("network"), alive("t2", 10)]
    lease, expected = await beat([*script, LeaseLost("412")])
    assert expected == [NO_HEARTBEAT, "t1", "t1", "t1", "t1", "t2"]
    assert lease.end is End.LOST


@pytest.mark.rule("c9_29")
async def test_a_whole_ttl_without_a_beat_loses_the_lease() -> None:
    lease, expected = await beat([alive("t1", 10), *[Away("network")] * 20], step_s=4)
    assert lease.end is End.LOST
    assert len(expected) == 4


@pytest.mark.rule("c9_29")
async def test_before_the_first_answer_90_seconds_are_assumed() -> None:
    lease, expected = await beat([Away("network")] * 20, step_s=30)
    assert lease.end is End.LOST
    assert len(expected) == 4


async def test_a_beat_that_hangs_is_cut_off() -> None:
    class Hanging(ScriptedHeart):
        async def heartbeat(self, expected: str, *, ttl_s: int | None = None) -> Beat:
            if not self.expected:
                self.expected.append(expected)
                await anyio.sleep_forever()
            return await super().heartbeat(expected)

    clock, lease = ManualClock(), Lease()
    with anyio.fail_after(60):
        await heartbeat_loop(Hanging(clock, [LeaseLost("412")]), lease, clock)
    assert lease.end is End.LOST


async def test_the_end_of_the_work_ends_the_beats() -> None:
    clock, lease = ManualClock(), Lease()
    heart = ScriptedHeart(clock, [alive(str(number)) for number in range(1000)])
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(heartbeat_loop, heart, lease, clock)
            await anyio.sleep(0.03)
            lease.finish(End.DONE)
    assert await lease.wait() is End.DONE


def test_the_first_reason_stands() -> None:
    lease = Lease()
    lease.finish(End.LOST)
    lease.finish(End.DONE)
    assert lease.end is End.LOST


@pytest.mark.parametrize(("ttl_s", "interval_s"), [(300, 30), (40, 20), (10, 5), (1, 1), (0.1, 1)])
@pytest.mark.rule("c9_28")
def test_the_interval_is_half_a_ttl_between_1_and_30_seconds(
    monkeypatch: pytest.MonkeyPatch, ttl_s: float, interval_s: float
) -> None:
    monkeypatch.undo()
    assert interval_of(ttl_s) == interval_s
