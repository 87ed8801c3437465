import pytest

from intramuros.control.store.db import Tx
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from tests.fakes.world import World


@pytest.fixture
def world(tx: Tx, clock: ManualClock, ids: IdFactory) -> World:
    return World(tx, clock, ids, "wrkspc_test")
