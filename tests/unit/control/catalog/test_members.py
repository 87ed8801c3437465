import json

import pytest

from intramuros.control.catalog import members, service_accounts, workspaces
from intramuros.control.catalog.kinds import SERVICE_ACCOUNT
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.protocol.resources.federation import ServiceAccountCreate
from intramuros.protocol.resources.organization import WorkspaceCreate


def test_members_come_change_and_go_with_their_records(tx: Tx, actor: Actor) -> None:
    account = service_accounts.create(tx, actor, ServiceAccountCreate(name="a")).id
    place = workspaces.create(tx, actor, WorkspaceCreate(name="w"))["id"]
    members.add(tx, actor, place, SERVICE_ACCOUNT, account, "workspace_user")
    with pytest.raises(Conflict):
        members.add(tx, actor, place, SERVICE_ACCOUNT, account, "workspace_user")
    for _ in range(2):
        changed = members.change(tx, actor, place, SERVICE_ACCOUNT, account, "workspace_admin")
        assert changed.role == "workspace_admin"
    assert members.of_workspace(tx, place) == [changed]
    for _ in range(2):
        members.remove(tx, actor, place, SERVICE_ACCOUNT, account)
    with pytest.raises(NotFound):
        members.get(tx, place, SERVICE_ACCOUNT, account)
    kinds = [json.loads(line)["kind"] for line in audit.read_lines(tx)]
    assert kinds[2:] == ["service_account.join", "service_account.role", "service_account.leave"]


def test_R361_the_default_workspace_has_everybody(tx: Tx, actor: Actor) -> None:
    account = service_accounts.create(tx, actor, ServiceAccountCreate(name="a")).id
    members.remove(tx, actor, "wrkspc_test", SERVICE_ACCOUNT, account)
    (implicit,) = members.of_member(tx, SERVICE_ACCOUNT, account)
    assert (implicit.implicit, implicit.role) == (True, "workspace_user")
    assert members.of_workspace(tx, "wrkspc_test") == [implicit]
    service_accounts.archive(tx, actor, account)
    assert members.of_workspace(tx, "wrkspc_test") == []


def test_R361_archived_workspaces_take_nobody(tx: Tx, actor: Actor) -> None:
    account = service_accounts.create(tx, actor, ServiceAccountCreate(name="a")).id
    place = workspaces.create(tx, actor, WorkspaceCreate(name="w"))["id"]
    workspaces.archive(tx, actor, place)
    with pytest.raises(InvalidRequest, match="archived"):
        members.add(tx, actor, place, SERVICE_ACCOUNT, account, "workspace_user")
    with pytest.raises(InvalidRequest, match="archived"):
        members.remove(tx, actor, place, SERVICE_ACCOUNT, account)
