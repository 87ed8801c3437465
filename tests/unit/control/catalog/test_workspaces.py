import json

import pytest

from intramuros.control.catalog import workspaces
from intramuros.control.catalog.workspaces import Filter
from intramuros.control.identity import audit, bootstrap, keys
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.credentials import authenticate
from intramuros.control.identity.principal import ALL_SCOPES, DEFAULT_SCOPES
from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span
from intramuros.kernel.errors import AuthenticationFailed, InvalidRequest, NotFound
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.resources.organization import (
    Workspace,
    WorkspaceCreate,
    WorkspaceUpdate,
)


def test_the_default_stays_the_oldest_when_the_clock_steps_back(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    clock.advance(-3600)
    made = workspaces.create(tx, actor, WorkspaceCreate(name="new"))
    Workspace.model_validate(made)
    assert bootstrap.default_workspace(tx) == "wrkspc_test"
    assert workspaces.archive(tx, actor, made["id"])["archived_at"] >= made["created_at"]


def test_R365_at_most_a_hundred_are_active(
    tx: Tx, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workspaces.MAX_ACTIVE == 100
    monkeypatch.setattr(workspaces, "MAX_ACTIVE", 2)
    made = workspaces.create(tx, actor, WorkspaceCreate(name="a"))
    with pytest.raises(InvalidRequest, match="at most"):
        workspaces.create(tx, actor, WorkspaceCreate(name="b"))
    workspaces.archive(tx, actor, made["id"])
    workspaces.create(tx, actor, WorkspaceCreate(name="b"))


def test_R365_archiving_revokes_and_every_act_is_recorded(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    made = workspaces.create(tx, actor, WorkspaceCreate(name="a"))
    inside = Actor(clock, actor.ids, made["id"], "x")
    _, secret = keys.create(tx, inside, "k", DEFAULT_SCOPES)
    assert authenticate(tx, secret, to_micros(clock.now())).workspace_id == made["id"]
    workspaces.configure(tx, actor, made["id"], WorkspaceUpdate(name="b"))
    workspaces.configure(tx, actor, made["id"], WorkspaceUpdate(name="b"))
    workspaces.archive(tx, actor, made["id"])
    workspaces.archive(tx, actor, made["id"])
    with pytest.raises(AuthenticationFailed):
        authenticate(tx, secret, to_micros(clock.now()))
    kinds = [json.loads(line)["kind"] for line in audit.read_lines(tx)]
    assert [k for k in kinds if k.startswith("workspace")] == [
        "workspace.create",
        "workspace.update",
        "workspace.archive",
    ]
    with pytest.raises(InvalidRequest):
        workspaces.active_row(tx, made["id"])


def test_what_was_not_sent_stays_and_null_empties_tags(tx: Tx, actor: Actor) -> None:
    request = WorkspaceCreate.model_validate(
        {"name": "a", "tags": {"a": "1"}, "data_residency": {"default_inference_geo": "us"}}
    )
    made = workspaces.create(tx, actor, request)
    narrow = WorkspaceUpdate.model_validate({"data_residency": {"allowed_inference_geos": ["us"]}})
    changed = workspaces.configure(tx, actor, made["id"], narrow)
    assert (changed["tags"], changed["data_residency"]["default_inference_geo"]) == (
        {"a": "1"},
        "us",
    )
    emptied = WorkspaceUpdate.model_validate({"tags": None})
    assert workspaces.configure(tx, actor, made["id"], emptied)["tags"] == {}
    wide = WorkspaceUpdate.model_validate({"data_residency": {"default_inference_geo": "global"}})
    with pytest.raises(InvalidRequest):
        workspaces.configure(tx, actor, made["id"], wide)


def test_R366_the_default_is_listed_on_demand(tx: Tx, actor: Actor) -> None:
    assert workspaces.find(tx, Filter(), Span(5)) == ([], False)
    found, _ = workspaces.find(tx, Filter(include_default=True), Span(5))
    assert [w["id"] for w in found] == ["wrkspc_test"]
    with pytest.raises(NotFound):
        workspaces.get(tx, "wrkspc_no")
    with pytest.raises(InvalidRequest):
        workspaces.archive(tx, actor, "wrkspc_test")


def test_a_workspace_with_the_last_key_that_administers_stays(tx: Tx, actor: Actor) -> None:
    made = workspaces.create(tx, actor, WorkspaceCreate(name="a"))["id"]
    inside = Actor(actor.clock, actor.ids, made, "x")
    keys.create(tx, inside, "boss", ALL_SCOPES)
    keys.create(tx, actor, "plain", DEFAULT_SCOPES)
    with pytest.raises(InvalidRequest, match="org:admin first"):
        workspaces.archive(tx, actor, made)
    keys.create(tx, actor, "other boss", ALL_SCOPES)
    assert workspaces.archive(tx, actor, made)["archived_at"] is not None
