import json

import pytest

from intramuros.control.catalog import attached, service, workspaces
from intramuros.control.catalog.kinds import AGENT, USER_PROFILE
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.organization import WorkspaceCreate


def profile(tx: Tx, actor: Actor) -> str:
    return service.create(tx, actor, USER_PROFILE, {"name": None}).id


def test_R295_only_the_named_profile_is_served(tx: Tx, actor: Actor) -> None:
    one = profile(tx, actor)
    made = workspaces.create(tx, actor, WorkspaceCreate(name="W", user_profile_id=one))["id"]
    attached.check_named(tx, made, one)
    attached.check_named(tx, "wrkspc_test", None)
    attached.check_named(tx, "wrkspc_test", "uprof_any")
    for wrong, code in ((None, "user_profile_required"), ("uprof_x", None), ("", None)):
        with pytest.raises(InvalidRequest) as caught:
            attached.check_named(tx, made, wrong)
        assert caught.value.hints.code == code


def test_R367_what_is_no_profile_is_not_attached(tx: Tx, actor: Actor) -> None:
    agent = service.create(tx, actor, AGENT, {"name": "a"}).id
    for wrong in (agent, "uprof_no", ""):
        with pytest.raises(InvalidRequest) as caught:
            attached.check_exists(tx, wrong)
        assert caught.value.hints.code == "user_profile_not_found"


def test_deleting_a_profile_frees_its_workspaces_and_no_others(tx: Tx, actor: Actor) -> None:
    one, other = profile(tx, actor), profile(tx, actor)
    ids = [
        workspaces.create(tx, actor, WorkspaceCreate(name="W", user_profile_id=which))["id"]
        for which in (one, one, other)
    ]
    attached.release(tx, actor, one)
    shown = [workspaces.get(tx, workspace_id)["user_profile_id"] for workspace_id in ids]
    assert shown == [None, None, other]
    assert [json.loads(line)["kind"] for line in audit.read_lines(tx)][-2:] == [
        "workspace.update"
    ] * 2
