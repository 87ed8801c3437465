"""A real database (SQLite in memory, or PostgreSQL), and clocks and ids that tests control."""

import random
from collections.abc import Iterator

import pytest
from sqlalchemy import insert

from intramuros.control.store.db import Tx
from intramuros.control.store.tables import workspaces
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, to_micros
from tests.engines import blank

WORKSPACE = "wrkspc_test"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ids(clock: ManualClock) -> IdFactory:
    return IdFactory(clock, random.Random(7).randbytes)


@pytest.fixture
def tx(clock: ManualClock) -> Iterator[Tx]:
    """An open transaction with one workspace, ``wrkspc_test``, and foreign keys on."""
    with blank() as connection:
        connection.execute(
            insert(workspaces).values(id=WORKSPACE, name="Test", created_us=to_micros(clock.now()))
        )
        yield Tx(connection)
