from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from intramuros.control.identity.actor import Actor
from intramuros.control.metering.groups import Groups, load_groups
from intramuros.control.metering.meter import Meter
from intramuros.control.metering.rates import Rates
from intramuros.control.model.catalogue import Catalogue, load_catalogue
from intramuros.control.store.db import Database
from intramuros.control.store.migrate import upgrade
from intramuros.control.store.tables import workspaces
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, to_micros
from tests.engines import database_url


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, "wrkspc_test", "apikey_test")


@pytest.fixture(scope="session")
def known() -> Catalogue:
    return load_catalogue()


@pytest.fixture(scope="session")
def groups(known: Catalogue) -> Groups:
    return load_groups(known, "org")


@pytest.fixture
def db(tmp_path: Path, clock: ManualClock) -> Iterator[Database]:
    """A database on disk with one workspace, ``wrkspc_test``."""
    made = Database.open(database_url(tmp_path / "test.db"))
    upgrade(made.engine)
    with made.engine.begin() as connection:
        row = {"id": "wrkspc_test", "name": "Test", "created_us": to_micros(clock.now())}
        connection.execute(insert(workspaces).values(**row))
    yield made
    made.close()


@pytest.fixture
def meter(db: Database, clock: ManualClock, groups: Groups, known: Catalogue) -> Meter:
    return Meter(db, clock, Rates(clock, groups), known)
