import os
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from intramuros.control.store import strongbox
from intramuros.control.store.db import Tx
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.strongbox import Strongbox
from intramuros.control.store.tables import resources, vault_secrets
from intramuros.kernel.errors import OperatorError

SECRET = {"token": "a token that nobody may see"}


@pytest.fixture
def box(tx: Tx) -> Strongbox:
    for name in ("vlt_1", "vcrd_1", "vcrd_2"):
        tx.execute(
            insert(resources).values(
                id=name,
                kind="x",
                workspace_id="wrkspc_test",
                version=1,
                body={},
                created_us=0,
                updated_us=0,
            )
        )
    return Strongbox(Sealer(bytes(32), os.urandom), os.urandom)


def row(tx: Tx, credential_id: str = "vcrd_1") -> Any:
    found = strongbox.find(tx, credential_id)
    assert found is not None
    return found


def test_a_secret_comes_out_as_it_went_in_and_lies_sealed(tx: Tx, box: Strongbox) -> None:
    box.put(tx, "vcrd_1", "vlt_1", "server a", SECRET)
    assert box.open(row(tx)) == SECRET
    stored = tx.execute(select(vault_secrets)).one()
    assert SECRET["token"].encode() not in stored.sealed + stored.sealed_key
    with pytest.raises(OperatorError):
        Strongbox(Sealer(bytes(31) + b"1", os.urandom), os.urandom).open(stored)


def test_one_record_cannot_pass_for_another(tx: Tx, box: Strongbox) -> None:
    box.put(tx, "vcrd_1", "vlt_1", "server a", SECRET)
    stored = row(tx)._asdict()
    box.put(tx, "vcrd_2", "vlt_1", "server b", {"token": "other"})
    tx.execute(
        vault_secrets.update()
        .where(vault_secrets.c.credential_id == "vcrd_2")
        .values(sealed=stored["sealed"], sealed_key=stored["sealed_key"])
    )
    with pytest.raises(OperatorError):
        box.open(row(tx, "vcrd_2"))


def test_R046_R047_keys_are_unique_until_wiped(tx: Tx, box: Strongbox) -> None:
    box.put(tx, "vcrd_1", "vlt_1", "server a", SECRET)
    assert (strongbox.match(tx, "vlt_1", "server a"), strongbox.count(tx, "vlt_1")) == ("vcrd_1", 1)
    with pytest.raises(IntegrityError), tx.connection.begin_nested():
        box.put(tx, "vcrd_2", "vlt_1", "server a", SECRET)
    strongbox.wipe(tx, ["vcrd_1"])
    assert strongbox.find(tx, "vcrd_1") is None
    assert (strongbox.match(tx, "vlt_1", "server a"), strongbox.count(tx, "vlt_1")) == (None, 0)
    box.put(tx, "vcrd_2", "vlt_1", "server a", SECRET)


def test_Q10_one_refresh_at_a_time_and_a_dead_one_makes_room(tx: Tx, box: Strongbox) -> None:
    box.put(tx, "vcrd_1", "vlt_1", "server a", SECRET)
    first = strongbox.lock(tx, "vcrd_1", 100, 50)
    assert first is not None
    assert strongbox.lock(tx, "vcrd_1", 149, 50) is None
    second = strongbox.lock(tx, "vcrd_1", 150, 50)
    assert second is not None
    assert (strongbox.holds(tx, first), strongbox.holds(tx, second)) == (False, True)
    assert strongbox.give_up(tx, first, stopped=True) is False
    assert row(tx).stopped is False
    box.replace(tx, "vcrd_1", {"token": "new"})
    assert strongbox.holds(tx, second) is False
    assert strongbox.lock(tx, "vcrd_1", 151, 50) is not None
    assert strongbox.lock(tx, "vcrd_none", 151, 50) is None


def test_Q10_an_episode_of_failures_begins_once_and_ends_with_an_update(
    tx: Tx, box: Strongbox
) -> None:
    box.put(tx, "vcrd_1", "vlt_1", "server a", SECRET)

    def fail(*, stopped: bool) -> bool:
        held = strongbox.lock(tx, "vcrd_1", 0, 50)
        assert held is not None
        return strongbox.give_up(tx, held, stopped=stopped)

    assert (fail(stopped=False), fail(stopped=True)) == (True, False)
    assert (row(tx).stopped, row(tx).locked_us) == (True, None)
    box.replace(tx, "vcrd_1", SECRET)
    assert (row(tx).stopped, row(tx).failing) == (False, False)
    assert fail(stopped=False) is True
