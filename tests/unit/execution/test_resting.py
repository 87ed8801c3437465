from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from intramuros.execution.hands import Hands
from intramuros.execution.record import Record
from intramuros.execution.resting import RETRY_S, Resort
from intramuros.execution.sandbox.base import SandboxError, SandboxSpec
from intramuros.execution.snapshots.catalogue import Catalogue
from intramuros.execution.snapshots.keys import Keyring
from intramuros.execution.snapshots.ledger import Ledger
from intramuros.execution.snapshots.shelf import Shelf
from intramuros.execution.snapshots.sleeper import Sleeper, Terms
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock
from tests.fakes.keepable import KeepableProvider, KeepableSandbox

pytestmark = pytest.mark.anyio


class Worker:
    def __init__(
        self, root: Path, name: str, clock: ManualClock, *, keep: int = 0, shared: bool = False
    ) -> None:
        self.clock = clock
        self.provider = KeepableProvider()
        self.record = Record(root / name / "audit.jsonl", clock)
        catalogue = Catalogue(Shelf.open(str(root / "shelf")), Keyring.open(root / "keys"))
        ledger = Ledger(root / name / "awake")
        self.sleeper = Sleeper(catalogue, ledger, self.record, Terms(name, 1 << 20))
        self.hands = Hands(
            self.provider,
            SandboxSpec(),
            lambda: 0.0,
            keep=keep,
            resort=Resort(self.sleeper, clock, shared, after_s=100.0),
        )

    async def take(self, session_id: str = "s") -> KeepableSandbox:
        made = await self.hands.take(session_id)
        assert isinstance(made, KeepableSandbox)
        return made

    async def drowse(self, times: int = 1) -> None:
        stop = Stop()
        async with anyio.create_task_group() as group:
            group.start_soon(self.hands.watch, stop)
            await anyio.sleep(0.03 * times)
            stop.request()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intramuros.execution.resting._LOOK_S", 0.005)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[object]:
    made: list[Worker] = []
    clock = ManualClock()

    def make(name: str = "A", **options: object) -> Worker:
        made.append(Worker(tmp_path, name, clock, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.record.close()


async def test_without_room_it_is_put_away_at_once_and_woken_by_the_next_call(worker) -> None:
    a = worker()
    first = await a.take()
    first.files.append(b"x")
    await a.hands.rest("s")
    assert not first.alive
    assert not a.hands.rests("s")
    assert a.provider.disk == {}
    again = await a.take()
    assert again.files == [b"x"]


async def test_one_rests_frozen_until_its_time_has_come(worker) -> None:
    a = worker(keep=2)
    sandbox = await a.take()
    await a.hands.rest("s")
    assert (sandbox.paused, a.hands.rests("s")) == (True, True)
    a.clock.advance(99)
    await a.drowse()
    assert sandbox.alive
    assert await a.take() is sandbox
    assert not sandbox.paused
    await a.hands.rest("s")
    a.clock.advance(101)
    await a.drowse()
    assert not sandbox.alive
    assert a.provider.disk == {}
    assert await a.take() is not sandbox


async def test_the_oldest_is_put_away_when_there_are_too_many(worker) -> None:
    a = worker(keep=1)
    for name in "ab":
        (await a.take(name)).files.append(name.encode())
        await a.hands.rest(name)
    assert (a.hands.rests("a"), a.hands.rests("b")) == (False, True)
    assert list(a.provider.disk) == ["b"]
    assert (await a.take("a")).files == [b"a"]


async def test_with_a_shared_place_it_is_stored_before_it_rests(worker) -> None:
    a, b = worker("A", keep=1, shared=True), worker("B", keep=1, shared=True)
    frozen = await a.take()
    frozen.files.append(b"1")
    await a.hands.rest("s")
    assert frozen.paused
    moved = await b.take()
    assert moved.files == [b"1"]
    moved.files.append(b"2")
    await b.hands.rest("s")
    # A's is older than what B put away: it must not be thawed.
    back = await a.take()
    assert back is not frozen
    assert not frozen.alive
    assert back.files == [b"12"]


async def test_with_a_shared_place_one_nobody_else_woke_is_thawed(worker) -> None:
    a = worker("A", keep=1, shared=True)
    frozen = await a.take()
    await a.hands.rest("s")
    assert await a.take() is frozen
    await a.hands.rest("s")
    a.clock.advance(101)
    await a.drowse()
    assert not frozen.alive
    assert await a.take() is not frozen


async def test_what_cannot_be_put_away_stays_frozen_and_is_tried_again(worker) -> None:
    a = worker()
    sandbox = await a.take()
    sandbox.broken = True
    await a.hands.rest("s")
    assert (sandbox.alive, sandbox.paused) == (True, True)
    a.clock.advance(RETRY_S + 1)
    await a.drowse()
    assert (sandbox.alive, sandbox.paused) == (True, True)
    sandbox.broken = False
    a.clock.advance(RETRY_S + 1)
    await a.drowse()
    assert not sandbox.alive
    assert a.provider.disk == {}


async def test_of_those_only_so_many_stay(worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intramuros.execution.resting.MAX_STUCK", 1)
    a = worker()
    for name in "ab":
        sandbox = await a.take(name)
        sandbox.broken = True
        await a.hands.rest(name)
    assert (a.hands.rests("a"), a.hands.rests("b")) == (True, False)
    assert "b" in a.provider.disk  # its workspace stays


async def test_a_worker_that_goes_leaves_nothing_frozen(worker) -> None:
    a = worker(keep=5)
    leaving = await a.take("leaving")
    await a.hands.rest("leaving", stay=False)
    resting = await a.take("resting")
    await a.hands.rest("resting")
    stuck = await a.take("stuck")
    await a.hands.rest("stuck")
    stuck.broken = True
    await a.hands.aclose()
    assert not any(sandbox.alive for sandbox in (leaving, resting, stuck))
    assert list(a.provider.disk) == ["stuck"]
    b = worker("B")
    assert await b.take("resting") is not None


async def test_a_dead_one_is_not_put_away(worker) -> None:
    a = worker(keep=1)
    sandbox = await a.take()
    sandbox.alive = False
    await a.hands.rest("s")
    assert not a.hands.rests("s")
    sandbox = await a.take()
    await a.hands.rest("s")
    sandbox.alive = False
    a.clock.advance(101)
    await a.drowse()
    assert not a.hands.rests("s")
    assert "s" in a.provider.disk


async def test_a_frozen_one_that_does_not_resume_is_replaced(worker) -> None:
    a = worker(keep=1)
    sandbox = await a.take()
    await a.hands.rest("s")

    async def stuck() -> None:
        raise SandboxError("stuck")

    sandbox.resume = stuck  # type: ignore[method-assign]
    assert await a.take() is not sandbox


async def test_operators_put_away_live_and_resting_ones(worker) -> None:
    a = worker(keep=1)
    live = await a.take("live")
    live.busy = True
    with pytest.raises(SandboxError, match="a call is running"):
        await a.hands.put_away("live")
    assert await a.take("live") is live
    live.busy = False
    await a.hands.put_away("live")
    await a.take("resting")
    await a.hands.rest("resting")
    await a.hands.put_away("resting")
    with pytest.raises(SandboxError, match="no live or frozen sandbox here"):
        await a.hands.put_away("resting")
    assert (a.provider.live, a.provider.disk) == ({}, {})
    await a.hands.wake("resting")
    await a.hands.wake("resting")
    assert a.hands.states() == {"resting": "resting"}
    assert a.provider.live["resting"].paused


async def test_a_snapshot_leaves_the_sandbox_as_it_was(worker) -> None:
    a = worker(keep=1)
    sandbox = await a.take()
    assert await a.hands.freeze("s")
    made = await a.hands.snapshot("s", "mine")
    assert (made.name, sandbox.alive) == ("mine", True)
    await a.hands.rest("s")
    await a.hands.snapshot("s", "again")
    assert (sandbox.alive, sandbox.paused, a.hands.rests("s")) == (True, True, True)
    assert await a.take() is sandbox


async def test_freezing_lasts_until_the_next_call(worker) -> None:
    a = worker()
    assert not await a.hands.freeze("s")
    sandbox = await a.take()
    assert await a.hands.freeze("s")
    assert not await a.hands.freeze("s")
    assert a.hands.states() == {"s": "frozen"}
    assert sandbox.paused
    await a.take()
    assert not sandbox.paused
    assert a.hands.states() == {"s": "running"}


async def test_one_sessions_trouble_is_no_others(worker) -> None:
    a = worker(keep=2)
    for name in "ab":
        await a.take(name)
        await a.hands.rest(name)

    async def explode() -> None:
        raise RuntimeError("a defect")

    a.provider.live["a"].resume = explode
    a.clock.advance(101)
    await a.drowse()
    assert not a.hands.rests("b")
    assert "b" not in a.provider.live


async def test_a_rest_is_not_cut_off_half_way(worker) -> None:
    a = worker()
    sandbox = await a.take()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await a.hands.rest("s")
    assert not sandbox.alive
    assert await a.sleeper.due("s") is not None


async def test_a_notice_is_looked_for_only_where_one_may_be(
    worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = worker()
    await a.take()
    await a.hands.rest("s")
    await a.take()
    assert "open file 7" in await a.hands.notice("s")
    await a.hands.told("s")
    assert await a.hands.notice("s") == ""
    looked: list[str] = []
    monkeypatch.setattr(a.sleeper, "notice", looked.append)
    assert await a.hands.notice("s") == ""
    assert looked == []
