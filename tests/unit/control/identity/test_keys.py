import json

import pytest
from sqlalchemy import insert

from intramuros.control.identity import audit, credentials, keys
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import DEFAULT_SCOPES, Scope
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import AuthenticationFailed, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.resources.keys import ApiKey


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, "wrkspc_test", "apikey_boss")


def test_keys_are_made_listed_and_revoked_with_their_records(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    first, secret = keys.create(tx, actor, "one", DEFAULT_SCOPES)
    clock.advance(1)
    second, _ = keys.create(tx, actor, "two", [Scope.MANAGE_TUNNELS])
    ApiKey.model_validate(first)
    assert keys.find(tx, "wrkspc_test") == [second, first]
    assert credentials.authenticate(tx, secret, to_micros(clock.now())).scopes == {
        "workspace:developer",
        "workspace:inference",
    }
    revoked = keys.revoke(tx, actor, first["id"])
    clock.advance(1)
    assert keys.revoke(tx, actor, first["id"]) == revoked
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, secret, to_micros(clock.now()))
    lines = list(audit.read_lines(tx))
    assert [json.loads(line)["kind"] for line in lines] == [
        "api_key.create",
        "api_key.create",
        "api_key.revoke",
    ]
    assert secret not in "".join(lines)


def test_keys_of_other_workspaces_and_other_kinds_are_not_found(tx: Tx, actor: Actor) -> None:
    tx.execute(insert(workspaces).values(id="wrkspc_other", name="Other", created_us=0))
    made, _ = keys.create(tx, actor, "one", DEFAULT_SCOPES)
    worker, _ = credentials.mint(
        tx,
        actor.ids,
        actor.clock,
        kind="environment_key",
        workspace_id="wrkspc_test",
        name="w",
        environment_id="env_1",
    )
    assert keys.find(tx, "wrkspc_other") == []
    for workspace, key_id in (("wrkspc_other", made["id"]), ("wrkspc_test", worker)):
        with pytest.raises(NotFound):
            keys.get(tx, workspace, key_id)
