import base64
import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import insert, select

from intramuros.control.identity.credentials import authenticate
from intramuros.control.identity.principal import CredentialKind
from intramuros.control.session import work as queue
from intramuros.control.session.work import GRACE_US, NOTE_EVERY_S, Poll
from intramuros.control.store import work as rows
from intramuros.control.store.db import Database
from intramuros.control.store.notify import Subscription, work_topic
from intramuros.control.store.tables import metadata, pollers, workspaces
from intramuros.kernel.errors import AuthenticationFailed, NotFound, PreconditionFailed
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.work import WorkState
from tests.engines import database_url
from tests.fakes.world import World
from tests.waiting import until

MINUTE = 60 * 1_000_000


class Stage:
    """A world over a file, where polls can wait."""

    def __init__(self, db: Database, clock: ManualClock, ids: IdFactory) -> None:
        self.db = db
        self.world: World
        self._clock = clock
        self._ids = ids
        self.waits = 0
        """How many times a poll began to wait."""

    async def set_up(self) -> None:
        self.world = await self.db.write(
            lambda tx: World(tx, self._clock, self._ids, "wrkspc_test", self.db)
        )

    async def create(self) -> str:
        def work(tx):
            self._clock.advance(0.001)
            self.world.tx = tx
            return self.world.create()

        return await self.db.write(work)

    async def polled(self) -> None:
        """Return once a poll has found nothing and waits."""
        await until(lambda: self.waits)

    async def poll(self, *, wait_s: float = 0, reclaim_us: int = 5_000_000, gone: bool = False):
        async def has_gone() -> bool:
            return gone

        poll = Poll(self.world.environment_id, "w1", wait_s, reclaim_us, has_gone)
        return await self.world.work.poll(self.world.worker, poll)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(database_url(tmp_path / "x.db"))
    with opened.engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(insert(workspaces).values(id="wrkspc_test", name="Test", created_us=1))
    yield opened
    opened.close()


@pytest.fixture
async def stage(
    db: Database, clock: ManualClock, ids: IdFactory, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    made = Stage(db, clock, ids)
    await made.set_up()
    wait = Subscription.wait

    async def noted(self: Subscription, timeout_s: float) -> bool:
        made.waits += 1
        return await wait(self, timeout_s)

    monkeypatch.setattr(Subscription, "wait", noted)
    # Nobody is woken by the looks that make up for lost hints.
    monkeypatch.setattr(queue, "SAFETY_S", 3600.0)
    return made


def token_of(secret: str) -> str:
    return json.loads(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))["sessions_token"]


@pytest.mark.anyio
async def test_2_5_a_poll_brings_a_token_for_that_session_only(stage: Stage) -> None:
    session_id = await stage.create()
    item, secret = await stage.poll()
    now_us = stage.world.now_us
    principal = await stage.db.read(lambda tx: authenticate(tx, token_of(secret), now_us))
    assert (principal.kind, principal.session_id, principal.work_id) == (
        CredentialKind.SESSIONS_TOKEN,
        session_id,
        item.id,
    )
    assert principal.environment_id == stage.world.environment_id


@pytest.mark.anyio
async def test_items_go_out_in_order_and_once(stage: Stage) -> None:
    made = [await stage.create() for _ in range(3)]
    assert [(await stage.poll())[0].session_id for _ in made] == made
    assert await stage.poll() is None


@pytest.mark.anyio
async def test_9_14_an_item_nobody_acknowledged_is_handed_out_again(
    stage: Stage, clock: ManualClock
) -> None:
    await stage.create()
    first, _ = await stage.poll()
    clock.advance(4)
    assert await stage.poll() is None
    assert (await stage.poll(reclaim_us=3_000_000))[0].id == first.id
    clock.advance(5)
    again, secret = await stage.poll()
    assert again.id == first.id
    await stage.db.read(lambda tx: authenticate(tx, token_of(secret), stage.world.now_us))


@pytest.mark.anyio
@pytest.mark.rule("c9_10")
async def test_a_held_poll_is_answered_as_soon_as_there_is_work(stage: Stage) -> None:
    found = []

    async def poll() -> None:
        found.append(await stage.poll(wait_s=3600))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(poll)
            await stage.polled()
            await stage.create()
    assert found[0] is not None


@pytest.mark.anyio
async def test_nothing_is_handed_to_who_has_hung_up(stage: Stage) -> None:
    found = []

    async def poll() -> None:
        found.append(await stage.poll(wait_s=3600, gone=True))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(poll)
            await stage.polled()
            await stage.create()
    assert found == [None]
    assert await stage.poll() is not None


@pytest.mark.anyio
async def test_nor_by_the_first_look(stage: Stage) -> None:
    await stage.create()
    assert await stage.poll(gone=True) is None
    assert await stage.poll() is not None


@pytest.mark.anyio
async def test_9_38_pollers_are_noted_now_and_then(stage: Stage, clock: ManualClock) -> None:
    async def seen() -> list[int]:
        return await stage.db.read(lambda tx: list(tx.execute(select(pollers.c.seen_us)).scalars()))

    await stage.poll()
    first = await seen()
    clock.advance(1)
    await stage.poll()
    assert await seen() == first
    clock.advance(NOTE_EVERY_S)
    await stage.poll()
    assert len(await seen()) == 1
    assert await seen() != first
    environment_id, now_us = stage.world.environment_id, stage.world.now_us
    for since_us, count in ((now_us, 1), (now_us + 1, 0)):
        found = await stage.db.read(
            lambda tx, since_us=since_us: rows.count_pollers(tx, environment_id, since_us)
        )
        assert found == count


@pytest.mark.rule("c9_33")
def test_a_lapsed_lease_requeues_and_revokes_with_grace(world: World) -> None:
    session_id = world.create()
    item = world.serve(session_id)
    world.clock.advance(299)
    assert world.work.reap(world.tx) == []
    world.clock.advance(1)
    (lapsed,) = world.work.reap(world.tx)
    assert (lapsed.id, lapsed.state) == (item.id, WorkState.QUEUED)
    with pytest.raises(PreconditionFailed):
        world.work.beat(
            world.tx,
            world.environment_id,
            item.id,
            expected=item.heartbeat,
            desired_ttl_s=None,
        )
    assert world.serve(session_id).id == item.id


def claimed(world: World) -> tuple[str, str]:
    """Claim through the service and return the item's id and its token."""
    poll = Poll(world.environment_id, None, 0, 0, lambda: None)
    item, secret = world.work._claim(world.tx, world.worker, poll)
    return item.id, token_of(secret)


def test_amb_42_a_token_outlives_its_item_by_the_grace_only(world: World) -> None:
    world.create()
    work_id, token = claimed(world)
    world.work.acknowledge(world.tx, world.worker, world.environment_id, work_id)
    world.work.stop(world.tx, world.worker, world.environment_id, work_id, force=True)
    assert authenticate(world.tx, token, world.now_us + GRACE_US - 1)
    with pytest.raises(AuthenticationFailed):
        authenticate(world.tx, token, world.now_us + GRACE_US)


@pytest.mark.rule("c2_11")
def test_amb_42_a_stop_that_is_only_asked_for_leaves_the_token(world: World) -> None:
    world.create()
    work_id, token = claimed(world)
    world.work.acknowledge(world.tx, world.worker, world.environment_id, work_id)
    world.work.stop(world.tx, world.api, world.environment_id, work_id, force=False)
    assert authenticate(world.tx, token, world.now_us + 10 * GRACE_US)


def test_a_lapse_revokes_the_old_token_and_not_the_next(world: World) -> None:
    world.create()
    work_id, old = claimed(world)
    world.work.acknowledge(world.tx, world.worker, world.environment_id, work_id)
    world.clock.advance(300)
    world.work.reap(world.tx)
    _, new = claimed(world)
    with pytest.raises(AuthenticationFailed):
        authenticate(world.tx, old, world.now_us + GRACE_US)
    assert authenticate(world.tx, new, world.now_us + GRACE_US)


def test_a_session_is_not_handed_out_while_its_holder_leaves(world: World) -> None:
    session_id = world.create()
    item = world.serve(session_id)
    world.work.stop(world.tx, world.api, world.environment_id, item.id, force=False)
    world.clock.advance(1)
    world.say(session_id)
    assert [i.state for i in world.items(session_id)] == [WorkState.STOPPING, WorkState.QUEUED]
    assert rows.claim(world.tx, world.environment_id, "w2", world.now_us, 0) is None
    world.commit()
    with world.hub.subscribe(work_topic(world.environment_id)) as poller:
        world.work.stop(world.tx, world.worker, world.environment_id, item.id, force=True)
        world.commit()
        assert poller._hinted.is_set(), "whoever waits for the successor is woken"
    assert rows.claim(world.tx, world.environment_id, "w2", world.now_us, 0) is not None


def test_amb_14_new_input_keeps_a_worker_that_was_about_to_be_sent_away(world: World) -> None:
    session_id = world.create()
    item = world.serve(session_id)
    world.work.sleep(world.tx, item)
    assert [i.state for i in world.items(session_id)] == [WorkState.STOPPING]
    world.say(session_id)
    assert [(i.id, i.state) for i in world.items(session_id)] == [(item.id, WorkState.ACTIVE)]


def test_who_does_not_exist_is_not_found(world: World) -> None:
    session_id = world.create()
    (item,) = world.items(session_id)
    for environment_id, work_id in ((world.environment_id, "work_x"), ("env_x", item.id)):
        with pytest.raises(NotFound):
            world.work.get(world.tx, environment_id, work_id)
        with pytest.raises(NotFound):
            world.work.acknowledge(world.tx, world.worker, environment_id, work_id)
        with pytest.raises(NotFound):
            world.work.update(world.tx, environment_id, work_id, {})


@pytest.mark.anyio
async def test_a_server_that_stops_answers_held_polls(stage: Stage) -> None:
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: stage.poll(wait_s=3600))
            await stage.polled()
            stage.world.hub.close()
