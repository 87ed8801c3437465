import pytest

from intramuros.control.catalog import agents, geography, workspaces
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.agents import AgentCreate, AgentUpdate
from intramuros.protocol.resources.organization import WorkspaceCreate

NARROW = {"default_inference_geo": "us", "allowed_inference_geos": ["us"]}


def pinned(geo: str | None) -> dict[str, object]:
    return {"model": {"id": "claude-opus-5", "inference_geo": geo}}


@pytest.mark.rule("c5_28")
def test_a_pin_must_be_allowed_when_an_agent_is_saved(tx: Tx, actor: Actor) -> None:
    request = WorkspaceCreate.model_validate({"name": "US", "data_residency": NARROW})
    narrow = workspaces.create(tx, actor, request)["id"]
    there = Actor(actor.clock, actor.ids, narrow, "test")

    def create(geo: str | None, who: Actor = there) -> str:
        asked = AgentCreate.model_validate({"name": "A", **pinned(geo)})
        return agents.create(tx, who, asked).id

    agent = create("us")
    create(None)
    with pytest.raises(InvalidRequest, match=r"model\.inference_geo: .* allows us, not 'global'"):
        create("global")
    with pytest.raises(InvalidRequest, match="inference_geo"):
        agents.update(tx, there, agent, AgentUpdate.model_validate(pinned("global")))
    create("global", actor)


def test_a_workspace_that_nobody_narrowed_allows_everything(tx: Tx, actor: Actor) -> None:
    geography.check(tx, actor.workspace_id, {"inference_geo": "global"})
    geography.check(tx, "wrkspc_unknown", {"inference_geo": "us"})
    geography.check(tx, actor.workspace_id, {})
