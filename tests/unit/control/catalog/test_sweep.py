from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from sqlalchemy import insert

from intramuros.control.catalog import files, service
from intramuros.control.catalog.files import NewFile
from intramuros.control.catalog.kinds import FILE
from intramuros.control.catalog.sweep import METADATA_AGE, ORPHAN_AGE, Sweeper
from intramuros.control.identity.actor import Actor
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blob, Blobs
from intramuros.control.store.db import Database
from intramuros.control.store.migrate import upgrade
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import NotFound, Unavailable
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock, SystemClock
from tests.engines import database_url
from tests.waiting import until

pytestmark = pytest.mark.anyio

WORKSPACE = "wrkspc_test"


async def bytes_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


@dataclass
class Place:
    db: Database
    blobs: Blobs
    clock: ManualClock
    ids: IdFactory
    root: Path

    @property
    def sweeper(self) -> Sweeper:
        return Sweeper(self.db, self.blobs, self.clock, self.ids)

    async def file(self, key: str, expires_in_s: int | None = None) -> str:
        blob = await self.blobs.put(key, bytes_of(b"data"), 10)
        actor = Actor(self.clock, self.ids, WORKSPACE, "test")
        new = NewFile("a", "", expires_in_s, downloadable=True)
        made = await self.db.write(lambda tx: files.add(tx, actor, new, blob, 10**6))
        return made.id

    async def kept(self, key: str) -> bool:
        try:
            await self.blobs.read(Blob(key, 4, ""))
        except Unavailable:
            return False
        return True


@pytest.fixture
async def place(tmp_path: Path, ids: IdFactory) -> AsyncIterator[Place]:
    db = Database.open(database_url(tmp_path / "test.db"))
    upgrade(db.engine)
    row = insert(workspaces).values(id=WORKSPACE, name="t", created_us=0)
    await db.write(lambda tx: tx.execute(row) and None)
    # The store's own times are real ones.
    clock = ManualClock(SystemClock().now())
    yield Place(db, Blobs.open(None, tmp_path), clock, ids, tmp_path)
    db.close()


async def test_R179_bytes_go_at_expiry_and_metadata_30_days_later(place: Place) -> None:
    file_id = await place.file("a/1", 3600)
    await place.file("a/2")
    await place.sweeper.expire()
    assert await place.kept("a/1")
    place.clock.advance(3600)
    await place.sweeper.expire()
    assert not await place.kept("a/1")
    assert await place.db.read(holdings.used) == 4
    await place.db.read(lambda tx: service.get(tx, WORKSPACE, FILE, file_id))
    place.clock.advance(METADATA_AGE.total_seconds())
    await place.sweeper.expire()
    with pytest.raises(NotFound):
        await place.db.read(lambda tx: service.get(tx, WORKSPACE, FILE, file_id))
    assert await place.kept("a/2")


async def test_blobs_that_nobody_holds_go_after_a_day(place: Place) -> None:
    await place.file("a/held")
    await place.blobs.put("a/orphan", bytes_of(b"data"), 10)
    assert await place.sweeper.remove_orphans() == 0
    place.clock.advance(ORPHAN_AGE.total_seconds() + 60)
    partial = place.root / "blobs/a/killed#1"
    partial.write_bytes(b"half")
    assert await place.sweeper.remove_orphans() == 2
    assert not partial.exists()
    assert await place.kept("a/held")
    assert not await place.kept("a/orphan")


async def test_it_sweeps_until_it_is_stopped(place: Place) -> None:
    await place.blobs.put("a/orphan", bytes_of(b"data"), 10)
    place.clock.advance(ORPHAN_AGE.total_seconds() + 60)
    stop = Stop()
    path = place.root / "blobs/a/orphan"
    async with anyio.create_task_group() as group:
        group.start_soon(place.sweeper.run, stop)
        await until(lambda: not path.exists())
        stop.request()
