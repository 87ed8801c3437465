"""Sessions that are over go after their time, once, with what is theirs; on either engine."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import func, insert, select

from intramuros.control import retention
from intramuros.control.identity.audit import read_lines
from intramuros.control.retention import Retention
from intramuros.control.session import removal
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import events, metadata, sessions, workspaces
from intramuros.kernel.errors import OperatorError, Unavailable
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.audit import verify
from tests.engines import database_url
from tests.fakes.world import World
from tests.unit.control.test_jobs import Stage

pytestmark = pytest.mark.anyio

DAY = 86_400


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


def job(stage: Stage, days: float = 30) -> Retention:
    world = stage.world
    return Retention(stage.db, world.clock, world.sessions.removal, days=days, rand=lambda: 0.0)


async def made(stage: Stage, *, end: bool = True) -> str:
    session_id: str = await stage.act(lambda w: w.create())
    await stage.act(lambda w: w.say(session_id))
    await stage.act(lambda w: w.run(session_id))
    if end:
        await stage.act(lambda w: w.sessions.archive(w.tx, w.api, session_id))
    return session_id


async def left(stage: Stage) -> set[str]:
    return set(await stage.db.read(lambda tx: tx.execute(select(sessions.c.id)).scalars().all()))


async def logs(stage: Stage) -> set[str]:
    query = select(events.c.session_id).distinct()
    return set(await stage.db.read(lambda tx: tx.execute(query).scalars().all()))


async def deletions(stage: Stage) -> list[dict[str, object]]:
    lines = await stage.db.read(lambda tx: list(read_lines(tx)))
    verify(lines)
    records = [json.loads(line) for line in lines]
    return [record for record in records if record["kind"] == "session.delete"]


async def test_what_ended_long_ago_goes_and_nothing_else(stage: Stage) -> None:
    old, alive = await made(stage), await made(stage, end=False)
    stage.world.clock.advance(29 * DAY)
    young = await made(stage)
    await job(stage).look_once()
    assert await left(stage) == {old, alive, young}
    stage.world.clock.advance(2 * DAY)
    await job(stage).look_once()
    assert await left(stage) == {alive, young}
    assert await logs(stage) == {alive, young}
    (record,) = await deletions(stage)
    assert record["fields"]["session_id"] == old
    assert record["fields"]["by"] == "retention"
    stage.world.clock.advance(400 * DAY)
    await job(stage).look_once()
    assert await left(stage) == await logs(stage) == {alive}


async def test_nothing_goes_unless_it_is_asked_for(stage: Stage) -> None:
    old = await made(stage)
    stage.world.clock.advance(4_000 * DAY)
    await job(stage, days=0).look_once()
    assert await left(stage) == await logs(stage) == {old}


async def test_what_happened_since_keeps_a_session(stage: Stage) -> None:
    old = await made(stage)
    stage.world.clock.advance(31 * DAY)
    before_us = stage.world.now_us - 30 * DAY * 1_000_000
    assert await stage.act(lambda w: removal.over(w.tx, before_us, 9)) == [old]
    # Between the look and the act somebody touched it.
    touch = sessions.update().where(sessions.c.id == old).values(updated_us=stage.world.now_us)
    await stage.act(lambda w: w.tx.execute(touch))
    assert not await stage.act(lambda w: w.sessions.removal.expire(w.tx, old, before_us))
    assert await left(stage) == {old}
    assert await deletions(stage) == []


async def test_a_dream_that_has_not_archived_its_session_keeps_it(stage: Stage) -> None:
    old = await made(stage)
    dreaming = sessions.update().values(environment_kind="dream", archived_us=None)
    await stage.act(lambda w: w.tx.execute(dreaming))
    stage.world.clock.advance(31 * DAY)
    assert not await stage.act(lambda w: w.sessions.removal.expire(w.tx, old, w.now_us))
    await job(stage).look_once()
    assert await left(stage) == {old}


async def test_two_servers_at_once_delete_each_session_once(stage: Stage) -> None:
    gone = {await made(stage) for _ in range(5)}
    stage.world.clock.advance(31 * DAY)
    async with anyio.create_task_group() as group:
        group.start_soon(job(stage).look_once)
        group.start_soon(job(stage).look_once)
    assert await left(stage) == await logs(stage) == set()
    assert {record["fields"]["session_id"] for record in await deletions(stage)} == gone
    assert len(await deletions(stage)) == 5


async def test_a_look_is_bounded_and_says_that_there_is_more(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SESSIONS", 2)
    for _ in range(3):
        await made(stage)
    stage.world.clock.advance(31 * DAY)
    assert await job(stage).look_once()
    assert len(await left(stage)) == 1
    assert not await job(stage).look_once()
    assert await left(stage) == set()


async def test_it_runs_until_asked_to_stop(stage: Stage) -> None:
    await made(stage)
    stage.world.clock.advance(31 * DAY)
    stop = Stop()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(job(stage).run, stop)
            while await left(stage):  # noqa: ASYNC110  nobody tells
                await anyio.sleep(0.01)
            stop.request()


async def test_a_server_that_is_to_stop_deletes_no_more(stage: Stage) -> None:
    old = await made(stage)
    stage.world.clock.advance(31 * DAY)
    stop = Stop()
    stop.request()
    assert not await job(stage).look_once(stop)
    assert await left(stage) == {old}


async def test_what_cannot_be_deleted_now_stays_and_stops_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, free = await made(stage), await made(stage)
    stage.world.clock.advance(31 * DAY)
    expire = stage.world.sessions.removal.expire

    def fail(tx: Tx, session_id: str, before_us: int) -> bool:
        if session_id == held:
            raise Unavailable("not now")
        return expire(tx, session_id, before_us)

    monkeypatch.setattr(stage.world.sessions.removal, "expire", fail)
    await job(stage).look_once()
    assert await left(stage) == {held}
    monkeypatch.undo()
    await job(stage).look_once()
    assert await left(stage) == set()
    assert free not in await logs(stage)


async def test_what_would_go_is_counted(stage: Stage) -> None:
    await made(stage)
    await made(stage, end=False)
    stage.world.clock.advance(31 * DAY)

    def look(tx: Tx) -> None:
        before_us = stage.world.now_us - 30 * DAY * 1_000_000
        (share,) = removal.shares(tx, before_us)
        assert (share.workspace_id, share.sessions) == ("wrkspc_test", 1)
        count = tx.scalar(select(func.count()).select_from(events))
        assert 0 < share.events < count
        assert removal.between(tx, "", None, before_us) == (2, 1)
        assert removal.between(tx, "sesn_", "sesn_0", before_us) == (0, 0)

    await stage.db.read(look)


@pytest.mark.parametrize("days", [-1, math.nan, math.inf, 40_000])
def test_numbers_of_days_that_make_no_sense_are_refused(db: Database, days: float) -> None:
    with pytest.raises(OperatorError, match="cannot be kept"):
        Retention(db, ManualClock(), None, days=days, rand=lambda: 0.0)  # type: ignore[arg-type]  not used
