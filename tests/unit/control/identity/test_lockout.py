import pytest

from intramuros.control.identity import admin_keys, keys, people
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import ALL_SCOPES, DEFAULT_SCOPES
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.organization import KeyUpdate


def made(tx: Tx, actor: Actor, *, admin: bool = True, principal_id: str | None = None) -> str:
    scopes = ALL_SCOPES if admin else DEFAULT_SCOPES
    shown, _ = keys.create(tx, actor, "k", scopes, principal_id=principal_id)
    return str(shown["id"])


@pytest.mark.parametrize("status", ["inactive", "archived"])
def test_the_last_key_that_administers_stays(tx: Tx, actor: Actor, status: str) -> None:
    last, plain = made(tx, actor), made(tx, actor, admin=False)
    change = KeyUpdate.model_validate({"status": status})
    with pytest.raises(InvalidRequest, match="org:admin first"):
        admin_keys.change(tx, actor, last, change)
    with pytest.raises(InvalidRequest, match="org:admin first"):
        keys.revoke(tx, actor, last)
    admin_keys.change(tx, actor, plain, change)
    made(tx, actor)
    assert admin_keys.change(tx, actor, last, change)["status"] == status


def test_a_key_whose_user_does_not_administer_is_no_other(
    tx: Tx, actor: Actor, ada: str, boss: str
) -> None:
    last = made(tx, actor)
    made(tx, actor, principal_id=ada)
    with pytest.raises(InvalidRequest):
        keys.revoke(tx, actor, last)
    made(tx, actor, principal_id=boss)
    keys.revoke(tx, actor, last)


def test_a_key_whose_user_left_is_no_other(tx: Tx, actor: Actor, ada: str, boss: str) -> None:
    last, theirs = made(tx, actor), made(tx, actor, principal_id=boss)
    second = people.add(tx, actor, "second@x.test", "S", "admin").id
    people.dismiss(tx, actor, boss)
    with pytest.raises(InvalidRequest):
        keys.revoke(tx, actor, last)
    assert theirs != second
