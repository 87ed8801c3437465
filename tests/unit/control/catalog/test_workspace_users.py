import pytest

from intramuros.control.catalog import workspace_users, workspaces
from intramuros.control.identity import people
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span
from intramuros.kernel.errors import Conflict, InvalidRequest
from intramuros.protocol.resources.organization import WorkspaceCreate
from intramuros.protocol.resources.people import UserMember


@pytest.fixture
def workspace(tx: Tx, actor: Actor) -> str:
    return str(workspaces.create(tx, actor, WorkspaceCreate(name="W"))["id"])


def person(tx: Tx, actor: Actor, role: str) -> str:
    return str(people.add(tx, actor, f"{role}@x.test", "P", role).id)


def test_administrators_belong_everywhere(tx: Tx, actor: Actor, workspace: str) -> None:
    boss = person(tx, actor, "admin")
    shown = workspace_users.get(tx, workspace, boss)
    UserMember.model_validate(shown)
    assert shown["workspace_role"] == "workspace_admin"
    with pytest.raises(Conflict):
        workspace_users.add(tx, actor, workspace, boss, "workspace_user")
    for act in (
        lambda: workspace_users.change(tx, actor, workspace, boss, "workspace_user"),
        lambda: workspace_users.remove(tx, actor, workspace, boss),
    ):
        with pytest.raises(InvalidRequest, match="by the organization's role 'admin'"):
            act()


def test_a_written_role_waits_while_somebody_is_an_administrator(
    tx: Tx, actor: Actor, workspace: str
) -> None:
    person(tx, actor, "admin")
    user = person(tx, actor, "user")
    workspace_users.add(tx, actor, workspace, user, "workspace_user")
    people.appoint(tx, actor, user, "admin")
    assert workspace_users.get(tx, workspace, user)["workspace_role"] == "workspace_admin"
    with pytest.raises(InvalidRequest):
        workspace_users.remove(tx, actor, workspace, user)
    people.appoint(tx, actor, user, "user")
    assert workspace_users.get(tx, workspace, user)["workspace_role"] == "workspace_user"


def test_a_billing_members_own_role_wins(tx: Tx, actor: Actor, workspace: str) -> None:
    bill = person(tx, actor, "billing")
    workspace_users.add(tx, actor, workspace, bill, "workspace_developer")
    found, more = workspace_users.find(tx, workspace, Span(10))
    assert ([m["workspace_role"] for m in found], more) == (["workspace_developer"], False)
    workspace_users.remove(tx, actor, workspace, bill)
    assert workspace_users.get(tx, workspace, bill)["workspace_role"] == "workspace_billing"


def test_who_left_the_organization_left_its_workspaces(
    tx: Tx, actor: Actor, workspace: str
) -> None:
    person(tx, actor, "admin")
    user = person(tx, actor, "user")
    workspace_users.add(tx, actor, workspace, user, "workspace_user")
    people.remove(tx, actor, user)
    found, _ = workspace_users.find(tx, workspace, Span(10))
    assert user not in [member["user_id"] for member in found]
