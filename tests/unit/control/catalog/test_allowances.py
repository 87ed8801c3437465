import pytest

from intramuros.control.catalog import allowances, workspaces
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.model.allowed import AllowList
from intramuros.control.model.catalogue import shipped_catalogue
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound, PermissionDenied
from intramuros.protocol.resources.allowances import WorkspaceModels
from intramuros.protocol.resources.organization import WorkspaceCreate

HOME = "wrkspc_test"


def model(name: str) -> dict[str, object]:
    return {"model": {"id": name}}


def test_a_list_is_kept_and_recorded_once(tx: Tx, actor: Actor) -> None:
    assert allowances.get(tx, HOME)["models"] is None
    for _ in range(2):
        shown = allowances.put(tx, actor, HOME, ["b", "a", "a"])
        assert WorkspaceModels.model_validate(shown).models == ["a", "b"]
    assert allowances.get(tx, HOME) == shown
    assert allowances.every(tx) == {HOME: AllowList.of(["a", "b"])}
    assert sum("workspace.models" in line for line in audit.read_lines(tx)) == 1
    assert allowances.put(tx, actor, HOME, [])["models"] == []
    with pytest.raises(PermissionDenied):
        allowances.check(tx, HOME, ["a"])
    allowances.put(tx, actor, HOME, None)
    allowances.check(tx, HOME, ["a"])
    assert allowances.every(tx) == {}


def test_whose_list_is_set_must_be_there(tx: Tx, actor: Actor) -> None:
    with pytest.raises(NotFound):
        allowances.get(tx, "wrkspc_none")
    other = workspaces.create(tx, actor, WorkspaceCreate(name="other"))["id"]
    workspaces.archive(tx, actor, other)
    with pytest.raises(InvalidRequest):
        allowances.put(tx, actor, other, None)


def test_every_model_of_an_agent_is_looked_at(tx: Tx, actor: Actor) -> None:
    allowances.put(tx, actor, HOME, ["a"])
    member = {"type": "agent", **model("b")}
    reference = {"type": "agent", "id": "agent_1"}
    advisor = {"type": "advisor", "model": "c"}
    allowances.check_agent(tx, HOME, {**model("a"), "multiagent": None})
    team = {"type": "coordinator", "agents": [reference]}
    allowances.check_agent(tx, HOME, {**model("a"), "multiagent": team})
    for agents, named in (([member], "'b'"), ([reference, advisor], "'c'")):
        team = {"type": "coordinator", "agents": agents}
        with pytest.raises(PermissionDenied, match=named):
            allowances.check_agent(tx, HOME, {**model("a"), "multiagent": team})


def test_the_shipped_aliases_are_known() -> None:
    allowed = AllowList.of([shipped_catalogue().entries[-1].id])
    with pytest.raises(PermissionDenied, match="'x', 'y'"):
        allowances.deny(["x", "y", "x"], allowed, shipped_catalogue())
