"""On PostgreSQL heartbeats pass other writers by, and nobody overwrites what another did."""

import os
import threading
from collections.abc import AsyncIterator

import anyio
import pytest
from sqlalchemy import insert

from intramuros.control.store import work as rows
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import workspaces
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol import work
from intramuros.protocol.work import Item, WorkState
from tests.fakes.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.sqlite]

WAIT_S = 10


class Served:
    """A session whose item a worker serves."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.inside, self.go = threading.Event(), threading.Event()

    async def set_up(self) -> None:
        clock = ManualClock()

        def make(tx: Tx) -> tuple[World, Item]:
            tx.execute(insert(workspaces).values(id="w", name="W", created_us=1))
            world = World(tx, clock, IdFactory(clock, os.urandom), "w", self.db)
            session_id = world.create()
            world.work.ensure(tx, world.environment_id, session_id)
            return world, world.serve(session_id)

        self.world, self.item = await self.db.write(make)

    async def beat(self) -> Item:
        def work(tx: Tx) -> tuple[Item, bool]:
            return self.world.work.beat(
                tx, self.world.environment_id, self.item.id, expected=None, desired_ttl_s=None
            )

        item, _ = await self.db.write(work, ())
        return item

    def hold(self, tx: Tx) -> None:
        """Stop the item as the journal does, with all the time in the world in between."""
        (item,) = rows.of_session(tx, self.world.environment_id, self.item.session_id)
        self.inside.set()
        assert self.go.wait(WAIT_S)
        rows.save(tx, work.stop(item, self.world.now_us, force=False))

    def stand(self, _: Tx) -> None:
        """Be in the middle of something else."""
        self.inside.set()
        assert self.go.wait(WAIT_S)


@pytest.fixture
async def served(url: str) -> AsyncIterator[Served]:
    db = Database.open(url)
    try:
        made = Served(db)
        await made.set_up()
        yield made
    finally:
        db.close()


async def test_a_beat_passes_others_by(served: Served) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(served.db.write, served.stand, ("another session",))
        await anyio.to_thread.run_sync(served.inside.wait, WAIT_S)
        try:
            with anyio.move_on_after(WAIT_S / 2):
                assert (await served.beat()).state is WorkState.ACTIVE
            assert not served.go.is_set()
        finally:
            served.go.set()


async def test_a_beat_does_not_undo_a_stop(served: Served) -> None:
    beaten: list[Item] = []

    async def beat() -> None:
        beaten.append(await served.beat())

    async with anyio.create_task_group() as group:
        group.start_soon(served.db.write, served.hold, (served.item.session_id,))
        await anyio.to_thread.run_sync(served.inside.wait, WAIT_S)
        group.start_soon(beat)
        await anyio.sleep(0.2)
        early = list(beaten)
        served.go.set()
    assert early == []
    assert [item.state for item in beaten] == [WorkState.STOPPING]
    now = await served.db.read(lambda tx: rows.get(tx, served.world.environment_id, served.item.id))
    assert now == beaten[0]
