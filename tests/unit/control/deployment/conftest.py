from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import metadata, workspaces
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from tests.engines import database_url
from tests.fakes.deployments import Desk, Stage
from tests.fakes.world import World


@pytest.fixture
def desk(tx: Tx, clock: ManualClock, ids: IdFactory) -> Desk:
    return Desk(World(tx, clock, ids, "wrkspc_test"))


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
    return await db.write(lambda tx: Stage(db, Desk(World(tx, clock, ids, "wrkspc_test"))))
