import pytest

from intramuros.control.identity.actor import Actor
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, "wrkspc_test", "apikey_test")
