from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import insert

from intramuros.control.jobs import Reaper
from intramuros.control.store import leases
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.notify import TURN_TOPIC
from intramuros.control.store.tables import metadata, workspaces
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.work import WorkState
from tests.engines import database_url
from tests.fakes.world import World, use

pytestmark = pytest.mark.anyio


class Stage:
    """A world over a file, and the reaper that tidies it."""

    def __init__(self, db: Database, world: World, dormancy_s: float = 60) -> None:
        self.db = db
        self.world = world
        self.reaper = Reaper(
            db, world.hub, world.clock, world.work, dormancy_s=dormancy_s, rand=lambda: 0.0
        )

    async def act(self, what: Callable[[World], Any]) -> Any:
        def work(tx: Tx) -> Any:
            self.world.tx = tx
            return what(self.world)

        return await self.db.write(work)

    async def states(self, session_id: str) -> list[WorkState]:
        return [i.state for i in await self.act(lambda w: w.items(session_id))]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(database_url(tmp_path / "x.db"))
    with opened.engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(insert(workspaces).values(id="wrkspc_test", name="T", created_us=1))
    yield opened
    opened.close()


@pytest.fixture
async def stage(db: Database, clock: ManualClock, ids: IdFactory) -> Stage:
    world = await db.write(lambda tx: World(tx, clock, ids, "wrkspc_test", db))
    return Stage(db, world)


async def test_a_turn_whose_holder_died_is_offered_again(stage: Stage) -> None:
    session_id = await stage.act(lambda w: w.create())
    await stage.act(lambda w: w.say(session_id))
    claim = lambda w: leases.claim(w.tx, leases.TURNS, "x", w.now_us, 1_000_000)  # noqa: E731  one line twice as clear
    assert (await stage.act(claim)).epoch == 1
    await stage.reaper.reap_once()
    assert await stage.act(claim) is None
    stage.world.clock.advance(2)
    with stage.world.hub.subscribe(TURN_TOPIC) as hints:
        await stage.reaper.reap_once()
        assert await hints.wait(0.1)
    assert (await stage.act(claim)).epoch == 2


async def test_work_whose_holder_died_is_queued_again(stage: Stage) -> None:
    session_id = await stage.act(lambda w: w.create())
    await stage.act(lambda w: w.serve(session_id))
    stage.world.clock.advance(301)
    await stage.reaper.reap_once()
    assert await stage.states(session_id) == [WorkState.QUEUED]


async def test_amb_14_a_sleeping_session_lets_go_of_its_worker(stage: Stage) -> None:
    session_id = await stage.act(lambda w: w.create())
    await stage.act(lambda w: w.serve(session_id))
    stage.world.clock.advance(59)
    await stage.reaper.reap_once()
    assert await stage.states(session_id) == [WorkState.ACTIVE]
    stage.world.clock.advance(2)
    await stage.reaper.reap_once()
    assert await stage.states(session_id) == [WorkState.STOPPING]


async def test_a_session_that_runs_or_waits_for_its_worker_does_not_sleep(stage: Stage) -> None:
    waiting = await stage.act(lambda w: w.create())
    await stage.act(lambda w: (w.serve(waiting), w.say(waiting), w.run(waiting, use())))
    busy = await stage.act(lambda w: w.create())
    await stage.act(lambda w: (w.serve(busy), w.say(busy)))
    stage.world.clock.advance(120)
    await stage.reaper.reap_once()
    assert await stage.states(waiting) == [WorkState.ACTIVE]
    assert await stage.states(busy) == [WorkState.ACTIVE]


async def test_dormancy_can_be_switched_off(stage: Stage) -> None:
    session_id = await stage.act(lambda w: w.create())
    await stage.act(lambda w: w.serve(session_id))
    stage.world.clock.advance(299)
    await Stage(stage.db, stage.world, dormancy_s=0).reaper.reap_once()
    assert await stage.states(session_id) == [WorkState.ACTIVE]


async def test_it_runs_until_asked_to_stop(stage: Stage) -> None:
    stop = Stop()
    session_id = await stage.act(lambda w: w.create())
    await stage.act(lambda w: w.serve(session_id))
    stage.world.clock.advance(301)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(stage.reaper.run, stop)
            queued = [WorkState.QUEUED]
            while await stage.states(session_id) != queued:  # noqa: ASYNC110  a row, not an event
                await anyio.sleep(0.01)
            stop.request()
