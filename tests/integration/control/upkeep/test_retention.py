"""What would go is told, and a log in partitions is checked, backed up, restored and moved."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from sqlalchemy import text, update

from intramuros.control.retention import Retention
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import sessions
from intramuros.control.upkeep import backup, check, move, restore
from intramuros.control.upkeep.attached import Place, attach
from intramuros.control.upkeep.retention import Forecast, forecast
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock, SystemClock
from tests.fakes.world import World
from tests.integration.control.upkeep.test_backup import quiet

pytestmark = [pytest.mark.sqlite, pytest.mark.timeout(240)]

MONTHS = 4


def told(place: Place, days: float) -> Forecast:
    source = attach(place)
    try:
        return forecast(source, days)
    finally:
        source.close()


def wrong_with(place: Place) -> list[str]:
    return [one.what for one in check.examine(place, quiet, deep=True) if one.fix]


def change(place: Place, work: Callable[[Tx], object]) -> None:
    db = Database.open(place.url)
    try:
        anyio.run(db.write, work)
    finally:
        db.close()


def run(place: Place, statement: str) -> None:
    change(place, lambda tx: tx.execute(text(statement)))


def empty(place: Place) -> None:
    """Have no session: those that are there are of now, and no earlier month could be cut off."""
    change(place, lambda tx: tx.execute(sessions.delete()))
    run(place, "TRUNCATE events, removed_logs, leases")


async def _live(place: Place) -> list[str]:
    """Have sessions of four months, each in its partition, all ended but those of this month."""
    db = Database.open(place.url)
    clock = ManualClock(SystemClock().now() - timedelta(days=31 * (MONTHS - 1)))
    ids = IdFactory(clock, os.urandom)
    made = []
    here = await db.read(lambda tx: tx.scalar(text("SELECT min(id) FROM workspaces")))
    world = await db.write(lambda tx: World(tx, clock, ids, here, db))

    def work(tx: Tx) -> None:
        world.tx = tx
        made.append(world.create("cloud"))
        world.say(made[-1])
        world.run(made[-1])
        if len(made) < MONTHS:
            world.sessions.archive(tx, world.api, made[-1])

    for _ in range(MONTHS):
        job = Retention(db, clock, world.sessions.removal, days=0, rand=lambda: 0.0)
        await job.lay_out(Stop())
        await db.write(work)
        clock.advance(31 * 86_400)
    db.close()
    return made


@pytest.fixture
def divided(good: Place, empty_url: str, tmp_path: Path) -> tuple[Place, list[str]]:
    """An installation on PostgreSQL that has been there for months, and what lies in them."""
    move.move(good, empty_url, quiet)
    place = Place(good.data_dir, empty_url)
    empty(place)
    return place, anyio.run(_live, place)


def test_what_would_go_is_told_by_month(divided: tuple[Place, list[str]]) -> None:
    place, _ = divided
    found = told(place, 20)
    (share,) = found.shares
    assert share.sessions == MONTHS - 1
    whole = [one for one in found.stretches if one.whole]
    assert sum(one.going for one in found.stretches) == MONTHS - 1
    assert all(one.sessions == one.going > 0 and one.ends is not None for one in whole)
    assert len(whole) >= 1
    assert found.stretches[-1].ends is None
    assert told(place, 20_000).shares == []


def test_on_sqlite_there_are_no_partitions(good: Place) -> None:
    assert told(good, 0) == Forecast([], [])
    change_all = update(sessions).values(status="terminated", updated_us=1, created_us=1)
    change(good, lambda tx: tx.execute(change_all))
    (share,) = told(good, 1).shares
    assert share.sessions == 2


def test_it_is_backed_up_restored_and_moved_as_ever(
    divided: tuple[Place, list[str]], fresh_of: Callable[[str], Path], tmp_path: Path
) -> None:
    place, made = divided
    assert wrong_with(place) == []
    # One that was deleted and whose log is still there is no part of a backup.
    gone = made[1]
    change(place, lambda tx: tx.execute(sessions.delete().where(sessions.c.id == gone)))
    assert wrong_with(place) == []
    source = attach(place)
    manifest = backup.back_up(source, tmp_path / "b", quiet, with_blobs=True)
    source.close()
    assert manifest.rows["removed_logs"] == 0
    back = Place(fresh_of("back"))
    restore.restore(tmp_path / "b", back, quiet)
    assert wrong_with(back) == []

    def held(tx: Tx) -> set[str]:
        return set(tx.execute(text("SELECT DISTINCT session_id FROM events")).scalars())

    db = Database.open(back.url)
    found = anyio.run(db.read, held)
    db.close()
    assert set(made) - found == {gone}


@pytest.fixture
def fresh_of(divided: tuple[Place, list[str]], tmp_path: Path) -> Callable[[str], Path]:
    """Makes an empty data directory that has the key."""

    def make(name: str) -> Path:
        made = tmp_path / name
        made.mkdir(mode=0o700)
        shutil.copy(divided[0].master_key, made)
        return made

    return make


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("ALTER TABLE events DETACH PARTITION events_p0", "have no partition"),
        (
            "INSERT INTO events SELECT 'sesn_7ZZZZZZZZZ', seq, event_id, type, thread_id, queued,"
            " internal, at_us, body, private, shared FROM events LIMIT 1",
            "holds logs already",
        ),
    ],
)
def test_a_partition_that_is_missing_or_too_full_is_told(
    divided: tuple[Place, list[str]], harm: str, says: str
) -> None:
    place, _ = divided
    run(place, harm)
    assert any(says in one for one in wrong_with(place))


def test_a_month_without_its_partition_is_told(good: Place, empty_url: str) -> None:
    move.move(good, empty_url, quiet)
    place = Place(good.data_dir, empty_url)
    assert wrong_with(place) == []
    empty(place)
    db = Database.open(place.url)
    clock = ManualClock(datetime(2026, 1, 10, tzinfo=UTC))
    job = Retention(db, clock, None, days=0, rand=lambda: 0.0)  # type: ignore[arg-type]  not used
    anyio.run(job.lay_out, Stop())
    db.close()
    assert any("this month has no partition" in one for one in wrong_with(place))
