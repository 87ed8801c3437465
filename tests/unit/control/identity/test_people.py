import json
from dataclasses import replace

import pytest

from intramuros.control.identity import audit, credentials, keys, people
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.people import Filter
from intramuros.control.identity.principal import ALL_SCOPES, Scope
from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span
from intramuros.kernel.errors import (
    AuthenticationFailed,
    InvalidRequest,
    NotFound,
    PermissionDenied,
)
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.resources.people import User


def kinds(tx: Tx) -> list[str]:
    return [json.loads(line)["kind"] for line in audit.read_lines(tx)]


def test_an_address_belongs_to_one_who_is_here(tx: Tx, actor: Actor, ada: str) -> None:
    User.model_validate(people.present(people.row_of(tx, ada)))
    with pytest.raises(InvalidRequest) as caught:
        people.add(tx, actor, "ADA@X.TEST", "Other", "user")
    assert caught.value.hints.code == "already_member"
    assert ada in caught.value.message
    people.add(tx, actor, "b@x.test", "B", "user")
    people.remove(tx, actor, ada)
    again = people.add(tx, actor, "ada@x.test", "Ada", "user")
    assert again.id != ada
    assert people.count(tx) == 2


def test_the_last_administrator_stays(tx: Tx, actor: Actor, boss: str, ada: str) -> None:
    for refuse in (
        lambda: people.remove(tx, actor, boss),
        lambda: people.dismiss(tx, actor, boss),
        lambda: people.change_role(tx, actor, boss, "user"),
        lambda: people.appoint(tx, actor, boss, "user"),
    ):
        with pytest.raises(InvalidRequest):
            refuse()
    people.appoint(tx, actor, ada, "admin")
    for refuse in (
        lambda: people.remove(tx, actor, boss),
        lambda: people.change_role(tx, actor, boss, "user"),
    ):
        with pytest.raises(InvalidRequest, match="intramuros user"):
            refuse()
    assert people.appoint(tx, actor, boss, "user")["role"] == "user"
    people.dismiss(tx, actor, boss)
    with pytest.raises(NotFound):
        people.row_of(tx, boss)


def test_the_last_member_stays(tx: Tx, actor: Actor, ada: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        people.remove(tx, actor, ada)
    assert caught.value.hints.code == "cannot_remove_last_member"


def test_removal_ends_what_acts_as_somebody_and_not_what_they_made(
    tx: Tx, actor: Actor, clock: ManualClock, ada: str, boss: str
) -> None:
    theirs, acting = keys.create(tx, actor, "k", ALL_SCOPES, principal_id=ada)
    as_ada = replace(actor, user_id=ada)
    _, made = keys.create(tx, as_ada, "k", ALL_SCOPES)
    now_us = to_micros(clock.now())
    assert credentials.authenticate(tx, acting, now_us).user_id == ada
    people.remove(tx, actor, ada)
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, acting, now_us)
    assert credentials.authenticate(tx, made, now_us).scopes == set(ALL_SCOPES)
    assert theirs["revoked_at"] is None


def test_signing_out_ends_sign_ins_and_leaves_keys(
    tx: Tx, actor: Actor, clock: ManualClock, ada: str
) -> None:
    _, key = keys.create(tx, actor, "k", ALL_SCOPES, principal_id=ada)
    _, token = credentials.mint(
        tx,
        actor.ids,
        clock,
        kind="federated_token",
        workspace_id="wrkspc_test",
        name="sign-in",
        scopes=ALL_SCOPES,
        principal_id=ada,
    )
    now_us = to_micros(clock.now())
    signed_in = credentials.authenticate(tx, token, now_us)
    assert (signed_in.user_id, signed_in.service_account_id) == (ada, None)
    assert Scope.ORG_ADMIN not in signed_in.scopes
    people.sign_out(tx, actor, ada)
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, token, now_us)
    credentials.authenticate(tx, key, now_us)
    assert people.row_of(tx, ada).signed_out_us == now_us


def test_who_signs_out_whom(tx: Tx, actor: Actor, ada: str, boss: str) -> None:
    with pytest.raises(InvalidRequest) as own:
        people.sign_out(tx, replace(actor, user_id=ada), ada)
    assert own.value.hints.code == "cannot_sign_out_self"
    with pytest.raises(PermissionDenied) as federated:
        people.sign_out(tx, replace(actor, service_account_id="svac_1"), boss)
    assert federated.value.hints.code == "cannot_sign_out_privileged_member"
    people.sign_out(tx, actor, boss)
    people.sign_out(tx, replace(actor, service_account_id="svac_1"), ada)


def test_every_change_is_recorded_once(tx: Tx, actor: Actor, ada: str, boss: str) -> None:
    people.change_role(tx, actor, ada, "user")
    people.change_role(tx, actor, ada, "user")
    people.remove(tx, actor, ada)
    assert kinds(tx) == ["user.add", "user.add", "user.role", "user.remove"]
    assert all("x.test" not in line for line in audit.read_lines(tx))


def test_filters(tx: Tx, actor: Actor, ada: str, boss: str) -> None:
    def ids(**wanted: object) -> list[str]:
        found, _ = people.find(tx, Filter(**wanted), Span(10))  # type: ignore[arg-type]  # as sent
        return [user["id"] for user in found]

    assert set(ids()) == {boss, ada}
    assert ids(email="ADA@x.test") == [ada]
    assert ids(email="%@x.test") == []
    assert ids(roles=["admin", "owner"]) == [boss]
    assert ids(roles=[]) == []
