from typing import Any

import pytest

from intramuros.control.identity import admin_keys, credentials, keys
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.admin_keys import Filter
from intramuros.control.identity.principal import DEFAULT_SCOPES
from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span
from intramuros.kernel.errors import AuthenticationFailed, InvalidRequest, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.resources.organization import KeyUpdate, OrganizationKey


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, "wrkspc_test", "apikey_boss")


def test_R368_every_status_is_found_by_its_name(tx: Tx, actor: Actor, clock: ManualClock) -> None:
    now_us = to_micros(clock.now())
    made = {name: keys.create(tx, actor, name, DEFAULT_SCOPES)[0]["id"] for name in "abc"}
    made["d"], _ = credentials.mint(
        tx,
        actor.ids,
        clock,
        kind="api_key",
        workspace_id="wrkspc_test",
        name="d",
        expires_us=now_us,
    )
    admin_keys.change(tx, actor, made["b"], KeyUpdate(status="inactive"))
    admin_keys.change(tx, actor, made["c"], KeyUpdate(status="archived"))
    wanted = {"active": "a", "inactive": "b", "archived": "c", "expired": "d"}
    for status, name in wanted.items():
        found, more = admin_keys.find(tx, Filter(status=status), Span(10), now_us)
        assert ([key["name"] for key in found], more) == ([name], False)
        assert OrganizationKey.model_validate(found[0]).status == status
    for name in "cd":
        with pytest.raises(InvalidRequest):
            admin_keys.change(tx, actor, made[name], KeyUpdate(status="active"))
        assert admin_keys.change(tx, actor, made[name], KeyUpdate(name="z"))["name"] == "z"


def test_R368_a_switched_off_key_does_nothing_until_switched_on(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    made, secret = keys.create(tx, actor, "k", DEFAULT_SCOPES)
    now_us = to_micros(clock.now())
    admin_keys.change(tx, actor, made["id"], KeyUpdate(status="inactive"))
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, secret, now_us)
    admin_keys.change(tx, actor, made["id"], KeyUpdate(status="active"))
    assert credentials.authenticate(tx, secret, now_us).credential_id == made["id"]


def test_other_credentials_are_no_keys_and_chosen_secrets_have_no_hint(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    now_us = to_micros(clock.now())
    grant: Any = {"workspace_id": "wrkspc_test", "name": "w"}
    worker, _ = credentials.mint(tx, actor.ids, clock, kind="environment_key", **grant)
    with pytest.raises(NotFound):
        admin_keys.get(tx, worker, now_us)
    chosen, _ = credentials.mint(
        tx, actor.ids, clock, kind="api_key", secret="sixteen-letters!", **grant
    )
    assert admin_keys.get(tx, chosen, now_us)["partial_key_hint"] is None
