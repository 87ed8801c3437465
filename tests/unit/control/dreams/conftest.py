import pytest

from intramuros.control.store.db import Tx
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from tests.fakes.dreams import Night
from tests.fakes.world import World


@pytest.fixture
def night(tx: Tx, clock: ManualClock, ids: IdFactory) -> Night:
    return Night(World(tx, clock, ids, "wrkspc_test"))
