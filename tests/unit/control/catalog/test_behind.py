"""Who a call ticket says stands behind a call."""

import pytest
from sqlalchemy import insert, select, update

from intramuros.control.catalog.behind import behind, change, first_marks, steered
from intramuros.control.identity.principal import SCHEDULE, CredentialKind, Principal
from intramuros.control.mcp.base import Caller
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import credentials, group_members, groups, sessions, users
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.sessions import SessionUpdate
from intramuros.protocol.who import MAX_GROUPS, MAX_PEOPLE, Group, Kind, Who
from tests.fakes.world import World

HERE = "wrkspc_test"


def caller(kind: CredentialKind = CredentialKind.API_KEY, **more: str) -> Principal:
    return Principal(kind, **{"credential_id": "apikey_1", "workspace_id": HERE, **more})


ANN = caller(user_id="user_ann")


@pytest.fixture
def world(tx: Tx, clock: ManualClock, ids: IdFactory) -> World:
    return World(tx, clock, ids, HERE)


@pytest.fixture
def people(tx: Tx) -> None:
    for name in ("ann", "bob"):
        tx.execute(
            insert(users).values(
                id=f"user_{name}",
                email=f"{name.title()}@x.test",
                email_key=f"{name}@x.test",
                name=name,
                role="user",
                created_us=1,
            )
        )
    tx.execute(
        insert(groups).values(id="g_ops", name="Ops", role_ids=[], created_us=1, updated_us=1)
    )
    tx.execute(insert(group_members).values(group_id="g_ops", user_id="user_ann", created_us=1))


def key(tx: Tx, id: str, principal_id: str | None, workspace_id: str = HERE) -> None:
    tx.execute(
        insert(credentials).values(
            id=id,
            kind="api_key",
            digest=id,
            workspace_id=workspace_id,
            name="k",
            scopes=[],
            created_us=1,
            principal_id=principal_id,
        )
    )


@pytest.mark.parametrize(
    ("who", "deployment", "kinds"),
    [
        (ANN, None, ["user:user_ann"]),
        (caller(service_account_id="svac_1"), None, ["service_account:svac_1"]),
        (caller(), None, ["api_key:apikey_1"]),
        (caller(credential_id=SCHEDULE), "depl_1", ["deployment:depl_1"]),
        (ANN, "depl_1", ["deployment:depl_1", "user:user_ann"]),
    ],
)
def test_who_makes_a_session_stands_behind_it(
    who: Principal, deployment: str | None, kinds: list[str]
) -> None:
    assert [f"{m['kind']}:{m['id']}" for m in first_marks(who, deployment)] == kinds


def test_everybody_who_steers_it_is_added_once() -> None:
    marks = first_marks(ANN, None)
    assert steered(marks, ANN) == {}
    both = steered(marks, caller())["steered_by"]
    assert both == [*marks, {"kind": "api_key", "id": "apikey_1"}]
    # Workers report what happened; schedules speak through their deployment.
    for kind in (CredentialKind.SESSIONS_TOKEN, CredentialKind.ENVIRONMENT_KEY):
        assert steered(marks, caller(kind)) == {}
    assert steered(marks, caller(credential_id=SCHEDULE)) == {}


def test_a_session_whose_maker_was_not_noted_is_nobodys_who_steers_it_now(
    tx: Tx, world: World, people: None
) -> None:
    session_id = world.create()
    # As a version leaves it that notes nobody.
    tx.execute(update(sessions).where(sessions.c.id == session_id).values(steered_by=[]))
    assert behind(tx, Caller(HERE, session_id)).who == ()
    for who in (ANN, ANN, caller()):
        row = tx.execute(select(sessions).where(sessions.c.id == session_id)).one()
        change(tx, row, who, {"title": "t"})
    assert [one.kind for one in behind(tx, Caller(HERE, session_id)).who] == [
        Kind.UNKNOWN,
        Kind.USER,
        Kind.API_KEY,
    ]


def test_one_too_many_is_kept_and_then_no_more() -> None:
    marks = first_marks(ANN, None)
    for number in range(MAX_PEOPLE + 5):
        added = steered(marks, caller(credential_id=f"apikey_{number}"))
        marks = added.get("steered_by", marks)
    assert len(marks) == MAX_PEOPLE + 1


def test_t31_a_sessions_people_are_looked_up_as_they_are_now(
    tx: Tx, world: World, people: None
) -> None:
    session_id = world.create()
    row = tx.execute(select(sessions).where(sessions.c.id == session_id)).one()
    marks = [{"kind": "user", "id": "user_ann"}, {"kind": "user", "id": "user_bob"}]
    change(tx, row, ANN, {"steered_by": marks})
    row = tx.execute(select(sessions).where(sessions.c.id == session_id)).one()
    change(tx, row, ANN, {"title": "t", "steered_by": marks})
    found = behind(tx, Caller(HERE, session_id))
    ops = Group("g_ops", "Ops")
    assert found.who == (
        Who(Kind.USER, "user_ann", "Ann@x.test", (ops,)),
        Who(Kind.USER, "user_bob", "Bob@x.test"),
    )
    assert (found.workspace_id, found.agent_id) == (HERE, row.agent_id)
    tx.execute(update(users).where(users.c.id == "user_ann").values(removed_us=5))
    for number in range(MAX_GROUPS + 1):
        id = f"g_{number}"
        tx.execute(insert(groups).values(id=id, name=id, role_ids=[], created_us=1, updated_us=1))
        tx.execute(insert(group_members).values(group_id=id, user_id="user_bob", created_us=1))
    # Who has left, and who is in more groups than a ticket holds, is nobody that a policy allows.
    assert [who.kind for who in behind(tx, Caller(HERE, session_id)).who] == [Kind.UNKNOWN] * 2


def test_a_credential_that_asks_for_a_message_is_looked_up_too(tx: Tx, people: None) -> None:
    key(tx, "apikey_ann", "user_ann")
    key(tx, "apikey_bot", "svac_1")
    key(tx, "apikey_bare", None)
    found = [behind(tx, Caller(HERE, f"apikey_{name}")).who[0] for name in ("ann", "bot", "bare")]
    assert [(who.kind, who.id) for who in found] == [
        (Kind.USER, "user_ann"),
        (Kind.SERVICE_ACCOUNT, "svac_1"),
        (Kind.API_KEY, "apikey_bare"),
    ]


def test_the_journal_and_an_update_note_who_steers(tx: Tx, world: World) -> None:
    session_id = world.create()

    def kinds() -> list[str]:
        marks = tx.scalar(select(sessions.c.steered_by).where(sessions.c.id == session_id))
        return [mark["id"] for mark in marks or ()]

    assert kinds() == ["apikey_1"]
    text = {"type": "user.message", "content": [{"type": "text", "text": "hi"}]}
    world.send(session_id, text, by=ANN)
    world.send(session_id, text, by=ANN)
    assert kinds() == ["apikey_1", "user_ann"]
    titled = SessionUpdate.model_validate({"title": "t"})
    world.sessions.update(tx, caller(user_id="user_bob"), session_id, titled)
    assert kinds() == ["apikey_1", "user_ann", "user_bob"]


def test_nobody_stands_behind_what_is_not_here(tx: Tx, world: World) -> None:
    session_id = world.create()
    assert behind(tx, Caller("wrkspc_other", session_id)).who == ()
    assert behind(tx, Caller(HERE, "")).who == ()
    assert behind(tx, Caller(HERE, "apikey_gone")).who == ()
