import os

import pytest

from intramuros.control.identity.actor import Actor
from intramuros.control.store.secrets import Sealer
from intramuros.control.tracing.destinations import Rules
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, "wrkspc_test", "apikey_test")


@pytest.fixture
def rules() -> Rules:
    return Rules(Sealer(bytes(32), os.urandom))
