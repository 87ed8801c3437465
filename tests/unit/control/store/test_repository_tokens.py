import os

import pytest
from sqlalchemy import delete, select, update

from intramuros.control.store import rekey, repository_tokens
from intramuros.control.store.db import Tx
from intramuros.control.store.repository_tables import repository_tokens as table
from intramuros.control.store.repository_tokens import Tokens
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from tests.fakes.world import World

TOKEN = "ghp_a-token-nobody-may-see"
OLD, NEW = Sealer(bytes(32), os.urandom), Sealer(b"n" * 32, os.urandom)


@pytest.fixture
def world(tx: Tx, clock: ManualClock, ids: IdFactory) -> World:
    return World(tx, clock, ids, "wrkspc_test")


def test_R392_a_token_comes_out_as_it_went_in_and_lies_sealed(tx: Tx, world: World) -> None:
    session_id = world.create("cloud")
    tokens = Tokens(OLD, os.urandom)
    tokens.put(tx, "sesrsc_1", TOKEN, session_id=session_id)
    tokens.put(tx, "sesrsc_2", TOKEN, session_id=session_id)
    rows = tx.execute(select(table)).all()
    assert len({row.sealed for row in rows}) == 2
    assert all(TOKEN.encode() not in row.sealed + row.sealed_key for row in rows)
    assert tokens.open(tx, "sesrsc_1") == TOKEN
    assert tokens.open(tx, "sesrsc_3") is None
    tokens.put(tx, "sesrsc_1", "another", session_id=session_id)
    assert tokens.open(tx, "sesrsc_1") == "another"
    with pytest.raises(OperatorError):
        Tokens(NEW, os.urandom).open(tx, "sesrsc_1")
    assert rekey.reseal(tx, OLD, NEW) == 2
    assert Tokens(NEW, os.urandom).open(tx, "sesrsc_2") == TOKEN


def test_one_token_cannot_pass_for_another(tx: Tx, world: World) -> None:
    session_id = world.create("cloud")
    tokens = Tokens(OLD, os.urandom)
    tokens.put(tx, "sesrsc_1", TOKEN, session_id=session_id)
    tx.execute(update(table).values(id="sesrsc_2"))
    with pytest.raises(OperatorError):
        tokens.open(tx, "sesrsc_2")


def test_tokens_go_with_their_owner(tx: Tx, world: World) -> None:
    one, other = world.create("cloud"), world.create("cloud")
    tokens = Tokens(OLD, os.urandom)
    tokens.put(tx, "sesrsc_1", TOKEN, session_id=one)
    tokens.put(tx, "sesrsc_2", TOKEN, session_id=other)
    repository_tokens.wipe_session(tx, one)
    assert tokens.open(tx, "sesrsc_1") is None
    tx.execute(delete(sessions).where(sessions.c.id == other))
    assert tx.execute(select(table)).all() == []
