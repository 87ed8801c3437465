import json
import uuid

import pytest
from sqlalchemy import delete, insert

from intramuros.control.identity import audit, bootstrap, credentials
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import ALL_SCOPES
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import AuthenticationFailed, OperatorError
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, to_micros

SECRET = "an-operators-own-secret"


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, "wrkspc_test", bootstrap.BOOTSTRAP)


def test_the_first_workspace_is_made_once_and_names_the_organization(
    tx: Tx, clock: ManualClock, ids: IdFactory
) -> None:
    tx.execute(delete(workspaces))
    first = bootstrap.ensure_workspace(tx, clock, ids)
    clock.advance(1)
    tx.execute(
        insert(workspaces).values(id="wrkspc_0", name="x", created_us=to_micros(clock.now()))
    )
    assert bootstrap.ensure_workspace(tx, clock, ids) == first
    assert first.workspace_id.startswith("wrkspc_")
    assert str(uuid.UUID(first.organization_id)) == first.organization_id
    assert [json.loads(line)["kind"] for line in audit.read_lines(tx)] == ["workspace.create"]


def test_the_operators_key_has_every_scope_and_is_made_once(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    assert not bootstrap.has_key(tx)
    for _ in range(2):
        bootstrap.ensure_key(tx, actor, SECRET)
    assert bootstrap.has_key(tx)
    who = credentials.authenticate(tx, SECRET, to_micros(clock.now()))
    assert who.scopes == set(ALL_SCOPES)
    lines = list(audit.read_lines(tx))
    assert len(lines) == 1
    assert SECRET not in lines[0]


def test_a_revoked_key_does_not_come_back(tx: Tx, actor: Actor, clock: ManualClock) -> None:
    bootstrap.ensure_key(tx, actor, SECRET)
    now_us = to_micros(clock.now())
    credentials.revoke(tx, credentials.authenticate(tx, SECRET, now_us).credential_id, now_us)
    bootstrap.ensure_key(tx, actor, SECRET)
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, SECRET, now_us)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "short",
        "has a blank inside it",
        "ünïcode-is-not-sent",
        "a" * 15,
        "line\nbreak-in-the-key",
    ],
)
def test_unfit_keys_are_refused(tx: Tx, actor: Actor, secret: str) -> None:
    with pytest.raises(OperatorError, match="16 visible ASCII"):
        bootstrap.ensure_key(tx, actor, secret)
