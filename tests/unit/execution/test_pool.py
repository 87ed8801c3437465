from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from intramuros.execution import pool as module
from intramuros.execution.pool import BURST_S, MEMORY_S, Size, WarmPool, wanted
from intramuros.execution.sandbox.base import SandboxBusy, SandboxError, SandboxSpec
from intramuros.execution.sandbox.spares import Spare, additions
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock
from tests.fakes.sandbox import FakeProvider, FakeSandbox
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Sparing(FakeProvider):
    """Starts sandboxes ahead, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[FakeSandbox] = []
        self.adopted: list[str] = []
        self.failure: SandboxError | None = None
        self.broken = False

    async def prepare(self, spec: SandboxSpec) -> Spare:
        await anyio.lowlevel.checkpoint()
        if self.broken:
            raise SandboxError("no more")
        name = f"spare-{len(self.prepared)}"
        shell = FakeSandbox(self, name)
        self.prepared.append(shell)
        return Spare(name, spec, shell)

    async def adopt(self, spare: Spare, spec: SandboxSpec, sandbox_id: str) -> FakeSandbox | None:
        if self.failure is not None:
            raise self.failure
        if additions(spare.spec, spec) is None:
            return None
        self.adopted.append(sandbox_id)
        assert isinstance(spare.shell, FakeSandbox)
        spare.shell.sandbox_id = sandbox_id
        return spare.shell


@pytest.mark.parametrize(
    ("takes", "expected"),
    [
        ([], 1),
        ([0.0], 1),
        ([0.0, 0.1, 0.2], 3),
        ([0.0, BURST_S + 0.1, 2 * BURST_S + 0.2], 1),
        ([0.0] * 99, 8),
        ([50.0, 51.0, 90.0, 91.0, 91.5], 3),
    ],
)
def test_as_many_wait_as_were_lately_needed_at_once(takes: list[float], expected: int) -> None:
    assert wanted(takes, 100.0, Size(1, 8)) == expected


def test_a_burst_is_forgotten() -> None:
    takes = [0.0] * 5
    assert wanted(takes, MEMORY_S, Size(1, 8)) == 5
    assert wanted(takes, MEMORY_S + 0.1, Size(1, 8)) == 1
    assert wanted(takes, 0.0, Size(0, 0)) == 0


async def test_a_session_takes_one_that_waits_and_it_is_replaced() -> None:
    provider, stop = Sparing(), Stop()
    pool = WarmPool(provider, SandboxSpec(), Size(2, 4), ManualClock())
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, stop)
        await until(lambda: pool.waiting == 2)
        taken = await pool.create(SandboxSpec(environment={"A": "b"}), "sesn_1")
        assert taken is provider.prepared[0]
        await until(lambda: len(provider.prepared) == 3)
        assert (provider.adopted, provider.created) == (["sesn_1"], [])
        stop.request()
    # Those that waited are gone; the session's is not the pool's any more.
    assert [one.alive for one in provider.prepared] == [True, False, False]
    assert (pool.counts.hits, pool.counts.misses, pool.waiting) == (1, 0, 0)


async def test_what_wants_something_else_gets_its_own_and_the_spare_stays() -> None:
    provider, stop = Sparing(), Stop()
    pool = WarmPool(provider, SandboxSpec(), Size(1, 1), ManualClock())
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, stop)
        await until(lambda: pool.waiting == 1)
        await pool.create(SandboxSpec(egress="names"), "sesn_1")
        assert [name for _, name in provider.created] == ["sesn_1"]
        assert (pool.waiting, pool.counts.misses) == (1, 1)
        stop.request()


async def test_dead_ones_are_never_handed_out_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.005)
    provider, stop = Sparing(), Stop()
    pool = WarmPool(provider, SandboxSpec(), Size(2, 2), ManualClock())
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, stop)
        await until(lambda: pool.waiting == 2)
        provider.prepared[0].alive = False
        assert await pool.create(SandboxSpec(), "sesn_1") is provider.prepared[1]
        await until(lambda: len(provider.prepared) == 4)
        provider.prepared[2].alive = False
        # Nobody asks, and yet it is seen.
        await until(lambda: len(provider.prepared) == 5)
        stop.request()
    assert set(provider.destroyed) == {f"spare-{number}" for number in (0, 2, 3, 4)}


async def test_a_spare_that_dies_of_adoption_costs_its_session_nothing() -> None:
    provider, stop = Sparing(), Stop()
    pool = WarmPool(provider, SandboxSpec(), Size(1, 1), ManualClock())
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, stop)
        await until(lambda: pool.waiting == 1)
        provider.failure = SandboxError("mounts cannot be shown")
        assert await pool.create(SandboxSpec(), "sesn_1") is provider.live["sesn_1"]
        provider.failure = SandboxBusy("live elsewhere")
        await until(lambda: pool.waiting == 1)
        with pytest.raises(SandboxBusy):
            await pool.create(SandboxSpec(), "sesn_2")
        assert pool.waiting == 1
        stop.request()


async def test_none_is_made_where_there_is_no_room_and_failures_are_survived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.002)
    provider, stop, room = Sparing(), Stop(), [False]
    pool = WarmPool(provider, SandboxSpec(), Size(1, 1), ManualClock(), lambda: room[0])
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, stop)
        await anyio.sleep(0.02)
        assert provider.prepared == []
        provider.broken = room[0] = True
        await anyio.sleep(0.02)
        provider.broken = False
        await until(lambda: pool.waiting == 1)
        stop.request()


async def test_after_a_burst_more_wait_and_later_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.002)
    provider, stop, clock = Sparing(), Stop(), ManualClock()
    pool = WarmPool(provider, SandboxSpec(), Size(1, 3), clock)
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, stop)
        for number in range(5):
            await pool.create(SandboxSpec(), f"sesn_{number}")
        await until(lambda: pool.waiting == 3)
        clock.advance(MEMORY_S + 1)
        await until(lambda: pool.waiting == 1)
        stop.request()


async def test_a_provider_that_cannot_makes_each_when_it_is_needed() -> None:
    provider = FakeProvider()
    pool = WarmPool(provider, SandboxSpec(), Size(4, 4), ManualClock())
    await pool.run(Stop())
    spec = replace(SandboxSpec(), user="agent")
    assert await pool.create(spec, "sesn_1") is provider.live["sesn_1"]
