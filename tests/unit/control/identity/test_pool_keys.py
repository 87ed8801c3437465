import json

import pytest

from intramuros.control.identity import audit, credentials, keys, pool_keys
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import DEFAULT_SCOPES, CredentialKind
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import AuthenticationFailed, NotFound, PermissionDenied
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, to_micros


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, "wrkspc_test", "apikey_boss")


def test_pool_keys_are_made_listed_and_revoked_with_their_records(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    first, secret = pool_keys.create(tx, actor, "one")
    clock.advance(1)
    second, _ = pool_keys.create(tx, actor, "two")
    assert pool_keys.find(tx) == [second, first]
    holder = credentials.authenticate(tx, secret, to_micros(clock.now()))
    assert holder.kind is CredentialKind.POOL_KEY
    with pytest.raises(PermissionDenied, match="not a pool key"):
        holder.require_kind(CredentialKind.API_KEY, CredentialKind.SESSIONS_TOKEN)
    revoked = pool_keys.revoke(tx, actor, first["id"])
    clock.advance(1)
    assert pool_keys.revoke(tx, actor, first["id"]) == revoked
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, secret, to_micros(clock.now()))
    lines = list(audit.read_lines(tx))
    assert [json.loads(line)["kind"] for line in lines] == [
        "pool_key.create",
        "pool_key.create",
        "pool_key.revoke",
    ]
    assert secret not in "".join(lines)


def test_keys_of_other_kinds_are_no_pool_keys(tx: Tx, actor: Actor) -> None:
    made, _ = keys.create(tx, actor, "one", DEFAULT_SCOPES)
    assert pool_keys.find(tx) == []
    with pytest.raises(NotFound):
        pool_keys.revoke(tx, actor, made["id"])
