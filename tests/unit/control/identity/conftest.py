import pytest

from intramuros.control.identity import people
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, "wrkspc_test", "apikey_boss")


@pytest.fixture
def ada(tx: Tx, actor: Actor) -> str:
    """A developer."""
    return str(people.add(tx, actor, "ada@x.test", "Ada", "developer").id)


@pytest.fixture
def boss(tx: Tx, actor: Actor) -> str:
    """The only administrator."""
    return str(people.add(tx, actor, "boss@x.test", "Boss", "admin").id)
