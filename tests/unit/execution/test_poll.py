from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from intramuros.execution import poll
from intramuros.execution.client import Away, Refused, Work
from intramuros.execution.poll import Poller
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock

pytestmark = pytest.mark.anyio


def work(name: str) -> Work:
    return Work(name, "env_1", "session", f"sesn_{name}")


class ScriptedQueue:
    environment_id = "env_1"

    def __init__(self, clock: ManualClock, script: Sequence[Work | Exception | None]) -> None:
        self.clock = clock
        self.script = list(script)
        self.held_s = 0.999
        self.reclaims: list[int | None] = []
        self.on_empty: Stop | None = None

    async def poll(self, reclaim_older_than_ms: int | None) -> Work | None:
        self.reclaims.append(reclaim_older_than_ms)
        await anyio.lowlevel.checkpoint()
        self.clock.advance(self.held_s)
        if not self.script:
            if self.on_empty is not None:
                self.on_empty.request()
            return None
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


class Rig:
    def __init__(self, *script: Work | Exception | None, slots: int = 4) -> None:
        self.clock = ManualClock()
        self.queue = ScriptedQueue(self.clock, script)
        self.stop = Stop()
        self.served: list[str] = []
        self.ready = 0
        self.gate = anyio.Event()
        self.gate.set()
        self.poller = Poller(self.queue, self.serve, slots, self.clock, lambda: 0.5)

    async def serve(self, item: Work) -> None:
        await self.gate.wait()
        self.served.append(item.work_id)

    def tell(self) -> None:
        self.ready += 1

    async def run(self, *, once: bool = True, reclaim: int | None = None) -> None:
        with anyio.fail_after(60):
            await self.poller.loop(
                self.stop, once=once, reclaim_older_than_ms=reclaim, ready=self.tell
            )


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record pauses instead of making them."""
    made: list[float] = []

    async def pause(seconds: float, _stop: Stop) -> None:
        made.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(poll, "_pause", pause)
    return made


async def test_once_serves_what_is_queued_and_returns(pauses: list[float]) -> None:
    rig = Rig(work("a"), work("b"), None)
    await rig.run(reclaim=2000)
    assert sorted(rig.served) == ["a", "b"]
    assert rig.ready == 1
    assert set(rig.queue.reclaims) == {2000}
    assert pauses == []
    assert rig.poller.doing == "stopped"


async def test_empty_polls_that_were_held_follow_each_other_at_once(pauses: list[float]) -> None:
    rig = Rig(None, None, None)
    rig.queue.on_empty = rig.stop
    await rig.run(once=False)
    assert len(rig.queue.reclaims) == 4
    assert pauses == []


async def test_empty_polls_that_were_not_held_pause_with_jitter(pauses: list[float]) -> None:
    rig = Rig(None, None)
    rig.queue.held_s = 0.01
    rig.queue.on_empty = rig.stop
    await rig.run(once=False)
    assert pauses == [0.5, 0.5, 0.5]


async def test_failures_back_off_and_a_success_resets_that(pauses: list[float]) -> None:
    rig = Rig(Away("503"), Away("503"), work("a"), Away("slow", 7.0), None)
    await rig.run()
    assert pauses == pytest.approx([0.55, 1.1, 7.0])
    assert rig.served == ["a"]


async def test_no_more_items_than_slots_run_at_once(pauses: list[float]) -> None:
    rig = Rig(work("a"), work("b"), work("c"), slots=2)
    rig.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(rig.run)
        with anyio.fail_after(60):
            while rig.poller.doing != "waiting for a free slot" or len(rig.queue.reclaims) < 2:
                await anyio.lowlevel.checkpoint()
        assert len(rig.queue.reclaims) == 2
        rig.gate.set()
    assert sorted(rig.served) == ["a", "b", "c"]


async def test_nothing_is_claimed_while_the_host_has_no_room(pauses: list[float]) -> None:
    rig = Rig(work("a"))
    seen: list[int] = []

    def crowded() -> str | None:
        seen.append(len(rig.queue.reclaims))
        return "3 MiB of memory are free" if len(seen) < 4 else None

    rig.poller.crowded = crowded
    with capture_logs() as logs:
        await rig.run()
    assert pauses[:3] == [poll.CROWDED_S] * 3
    # Said once, and not with each look.
    (said,) = [entry for entry in logs if entry["event"] == "nothing_claimed"]
    assert said["lack"] == "3 MiB of memory are free"
    # Not even asked, so that another worker gets it.
    assert seen[:4] == [0, 0, 0, 0]
    assert rig.served == ["a"]


async def test_who_waits_for_room_says_so_and_can_be_stopped() -> None:
    rig = Rig(work("a"))
    rig.poller.crowded = lambda: "3 MiB of memory are free"
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await rig.run(once=False)

        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        assert rig.poller.doing == "waiting for room: 3 MiB of memory are free"
        rig.stop.request()
    assert (rig.served, rig.queue.reclaims) == ([], [])


async def test_a_stop_takes_no_more_but_finishes_what_was_claimed() -> None:
    rig = Rig(work("a"), work("late"))
    rig.gate = anyio.Event()
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await rig.run(once=False)

        group.start_soon(run)
        with anyio.fail_after(60):
            while len(rig.queue.reclaims) < 2:
                await anyio.lowlevel.checkpoint()
        rig.stop.request()
        await anyio.sleep(0.01)
        rig.gate.set()
    assert rig.served == ["a"]


@pytest.mark.parametrize(
    ("status", "problem", "fix"),
    [
        (401, "does not know the environment key", "environment-key create env_1"),
        (403, "not for env_1", "key of this environment"),
        (404, "no environment env_1", "environment id"),
        (400, "HTTP 400", "compatible versions"),
    ],
)
async def test_a_refusal_is_one_line_for_the_operator(status: int, problem: str, fix: str) -> None:
    rig = Rig(work("a"), Refused(f"HTTP {status}", status))
    with pytest.raises(OperatorError) as caught:
        await rig.run(once=False)
    assert problem in caught.value.problem
    assert fix in caught.value.fix
    assert "\n" not in str(caught.value)
    assert rig.served == ["a"]
