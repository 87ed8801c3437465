from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from intramuros.control.catalog import agents, rosters, service
from intramuros.control.catalog.kinds import AGENT
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.agents import AgentCreate, AgentOverrides, AgentUpdate

OFF = {"type": "disabled"}
ON = {"type": "enabled"}
ADVISOR = {"type": "advisor", "model": "wise"}
NEW = "multiagent_20261001"


def make(tx: Tx, actor: Actor, name: str = "worker", **more: object) -> service.Resource:
    request = AgentCreate.model_validate({"name": name, "model": "m", **more})
    return agents.create(tx, actor, request)


def amend(tx: Tx, actor: Actor, agent_id: str, **fields: object) -> service.Resource:
    return agents.update(tx, actor, agent_id, AgentUpdate.model_validate(fields))


def roster(*entries: object) -> dict[str, object]:
    return {"type": "coordinator", "agents": list(entries)}


def team(**members: object) -> dict[str, object]:
    return {"type": NEW, "workflows": OFF, **members}


def shown(agent: service.Resource) -> Mapping[str, Any]:
    value: Mapping[str, Any] = agents.present(agent)["multiagent"]
    return value


@pytest.mark.rule("c7_2", "c7_4", "c7_5")
def test_references_are_pinned_when_saved_and_stay(tx: Tx, actor: Actor) -> None:
    first, second = make(tx, actor, "first"), make(tx, actor, "second")
    amend(tx, actor, first.id, system="new")
    pinned = {"type": "agent", "id": first.id, "version": 1}
    lead = make(tx, actor, "lead", multiagent=roster(pinned, second.id, {"type": "self"}))
    second_ref = {"type": "agent", "id": second.id, "version": 1}
    own = {"type": "agent", "id": lead.id, "version": 1}
    assert shown(lead) == {"type": "coordinator", "agents": [pinned, second_ref, own]}
    amend(tx, actor, second.id, system="later")
    again = amend(tx, actor, lead.id, system="new")
    assert shown(again)["agents"] == [pinned, second_ref, {**own, "version": 2}]
    snapshot = agents.resolve(tx, actor.workspace_id, lead.id)["multiagent"]
    assert [(a["name"], a["version"], a["system"]) for a in snapshot["agents"]] == [
        ("first", 1, None),
        ("second", 1, None),
        ("lead", 2, "new"),
    ]
    assert all("multiagent" not in a for a in snapshot["agents"])


@pytest.mark.rule("c7_3")
def test_entries_are_distinct_existing_active_agents_without_a_roster(tx: Tx, actor: Actor) -> None:
    worker, gone, nested = make(tx, actor), make(tx, actor, "gone"), make(tx, actor, "nested")
    service.archive(tx, actor, gone)
    amend(tx, actor, nested.id, multiagent=roster(worker.id))
    self_twice = roster({"type": "self"}, {"type": "self"})
    for sent, why in (
        (roster(worker.id, {"type": "agent", "id": worker.id, "version": 1}), "twice"),
        (self_twice, "twice"),
        (roster(ADVISOR, {"type": "advisor", "model": "m"}), "one advisor"),
        (roster("agent_none"), "no agent"),
        (roster({"type": "agent", "id": worker.id, "version": 9}), "no version 9"),
        (roster(gone.id), "archived"),
        (roster(nested.id), "one level"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            make(tx, actor, "lead", multiagent=sent)
    lead = make(tx, actor, "lead")
    with pytest.raises(InvalidRequest, match="agent itself"):
        amend(tx, actor, lead.id, multiagent=roster(lead.id))


@pytest.mark.rule("c7_6")
def test_the_advisor_is_echoed_last_and_owns_its_name(tx: Tx, actor: Actor) -> None:
    worker, usurper = make(tx, actor), make(tx, actor, "anthropic.advisor")
    lead = make(tx, actor, "lead", multiagent=roster(ADVISOR, worker.id))
    assert [entry["type"] for entry in shown(lead)["agents"]] == ["agent", "advisor"]
    assert shown(lead)["agents"][-1] == ADVISOR
    assert agents.resolve(tx, actor.workspace_id, lead.id)["multiagent"]["agents"][-1] == ADVISOR
    with pytest.raises(InvalidRequest, match=r"anthropic\.advisor"):
        make(tx, actor, "lead", multiagent=roster(usurper.id, ADVISOR))
    assert make(tx, actor, "lead", multiagent=roster(usurper.id))
    only = make(tx, actor, "lead", multiagent=roster(ADVISOR))
    assert amend(tx, actor, only.id, multiagent=None).body["multiagent"] is None


@pytest.mark.rule("c7_12")
def test_members_are_returned_resolved(tx: Tx, actor: Actor) -> None:
    worker = make(tx, actor)
    everything = {"type": "enabled", "inline_agents": ON, "predefined_agents": []}
    for sent in (team(), team(subagents=None, advisor=None), team(subagents=ON)):
        made = make(tx, actor, "lead", multiagent=sent)
        assert shown(made) == {
            "type": NEW,
            "subagents": everything,
            "workflows": OFF,
            "advisor": OFF,
        }
    sent = team(
        subagents={"type": "enabled", "inline_agents": OFF, "predefined_agents": [worker.id]},
        advisor={"type": "enabled", "model": "wise"},
    )
    made = make(tx, actor, "lead", multiagent=sent)
    reference = {"type": "agent", "id": worker.id, "version": 1}
    assert shown(made)["subagents"] == {
        "type": "enabled",
        "inline_agents": OFF,
        "predefined_agents": [reference],
    }
    assert shown(made)["advisor"] == {"type": "enabled", "model": "wise"}
    session = agents.resolve(tx, actor.workspace_id, made.id)["multiagent"]
    assert session["subagents"]["predefined_agents"][0]["name"] == "worker"
    assert session["advisor"] == {"type": "enabled", "model": "wise"}


@pytest.mark.parametrize("listed", [None, []])
def test_without_inline_agents_one_must_be_predefined(
    tx: Tx, actor: Actor, listed: list[str] | None
) -> None:
    off = {"type": "enabled", "inline_agents": OFF, "predefined_agents": listed}
    with pytest.raises(InvalidRequest, match="at least one"):
        make(tx, actor, "lead", multiagent=team(subagents=off))


@pytest.mark.rule("c7_7", "c7_8")
def test_each_member_has_its_default_also_when_it_is_null(tx: Tx, actor: Actor) -> None:
    on = {"type": "enabled", "inline_agents": ON, "predefined_agents": []}
    nulls = {"subagents": None, "workflows": None, "advisor": None}
    for sent in ({}, nulls, {"workflows": ON}, {"workflows": {**ON, "inline_agents": None}}):
        lead = make(tx, actor, "lead", multiagent={"type": NEW, **sent})
        assert shown(lead) == {"type": NEW, "subagents": on, "workflows": on, "advisor": OFF}
    off = make(tx, actor, "lead", multiagent=team(subagents=OFF))
    assert shown(off)["workflows"] == OFF
    again = amend(tx, actor, off.id, multiagent={"type": NEW, "workflows": None})
    assert shown(again) == {"type": NEW, "subagents": OFF, "workflows": on, "advisor": OFF}


@pytest.mark.rule("c7_11")
def test_workflows_have_agents_of_their_own(tx: Tx, actor: Actor) -> None:
    one, two = make(tx, actor, "one"), make(tx, actor, "two")
    fixed = {"type": "enabled", "inline_agents": OFF}
    members = {
        "subagents": {"type": "enabled", "predefined_agents": [one.id]},
        "workflows": {**fixed, "predefined_agents": [two.id, {"type": "self"}]},
    }
    lead = make(tx, actor, "lead", multiagent={"type": NEW, **members})
    session = agents.resolve(tx, actor.workspace_id, lead.id)["multiagent"]
    names = {
        part: [agent["name"] for agent in session[part]["predefined_agents"]]
        for part in ("subagents", "workflows")
    }
    assert names == {"subagents": ["one"], "workflows": ["two", "lead"]}
    with pytest.raises(InvalidRequest, match=r"multiagent\.workflows: without inline_agents"):
        make(tx, actor, "lead", multiagent={"type": NEW, "workflows": fixed})
    many = {**ON, "predefined_agents": [make(tx, actor, f"a{n}").id for n in range(21)]}
    for part in ("subagents", "workflows"):
        with pytest.raises(ValidationError, match="at most 20"):
            make(tx, actor, "lead", multiagent={"type": NEW, part: many})


@pytest.mark.rule("c7_9", "c7_12")
def test_an_update_of_the_same_type_merges_level_by_level(tx: Tx, actor: Actor) -> None:
    worker, other = make(tx, actor, "worker"), make(tx, actor, "other")
    members = team(
        subagents={"type": "enabled", "inline_agents": OFF, "predefined_agents": [worker.id]},
        advisor={"type": "enabled", "model": "wise"},
    )
    lead = make(tx, actor, "lead", multiagent=members)
    before = shown(lead)

    def changed(**sent: object) -> Mapping[str, Any]:
        return shown(amend(tx, actor, lead.id, multiagent={"type": NEW, **sent}))

    assert changed() == before
    after = changed(subagents={"type": "enabled", "predefined_agents": [other.id]})
    assert after["subagents"]["inline_agents"] == OFF
    assert [a["id"] for a in after["subagents"]["predefined_agents"]] == [other.id]
    assert after["advisor"] == before["advisor"]
    assert changed(advisor=None)["advisor"] == OFF
    with pytest.raises(InvalidRequest, match="at least one"):
        changed(subagents={"type": "enabled", "predefined_agents": None})
    assert changed(subagents=OFF)["subagents"] == OFF
    # Another type of a member replaces it, and what is omitted takes its default.
    fresh = changed(subagents=ON)["subagents"]
    assert fresh == {"type": "enabled", "inline_agents": ON, "predefined_agents": []}


@pytest.mark.rule("c7_10")
def test_a_coordinator_and_a_change_of_type_replace_everything(tx: Tx, actor: Actor) -> None:
    worker, other = make(tx, actor, "worker"), make(tx, actor, "other")
    lead = make(tx, actor, "lead", multiagent=roster(worker.id, ADVISOR))
    replaced = shown(amend(tx, actor, lead.id, multiagent=roster(other.id)))
    assert [entry["id"] for entry in replaced["agents"]] == [other.id]
    crossed = shown(amend(tx, actor, lead.id, multiagent=team()))
    assert crossed["subagents"]["predefined_agents"] == []
    assert crossed["advisor"] == OFF
    back = shown(amend(tx, actor, lead.id, multiagent=roster(worker.id)))
    assert [entry["id"] for entry in back["agents"]] == [worker.id]


@pytest.mark.rule("c5_29")
def test_pins_of_the_geography_are_equal_or_unset(tx: Tx, actor: Actor) -> None:
    us, free = {"id": "m", "inference_geo": "us"}, {"id": "m"}
    pinned, loose = make(tx, actor, "p", model=us), make(tx, actor, "l", model=free)
    lead = make(tx, actor, "lead", model=us, multiagent=roster(pinned.id, {"type": "self"}))
    for model, entry in ((free, pinned), (us, loose), ({**us, "inference_geo": "global"}, pinned)):
        with pytest.raises(InvalidRequest, match="inference_geo"):
            make(tx, actor, "lead", model=model, multiagent=roster(entry.id))
    with pytest.raises(InvalidRequest, match="inference_geo"):
        amend(tx, actor, lead.id, model=free)
    given = {"type": "agent_with_overrides", "id": lead.id, "model": free}
    with pytest.raises(InvalidRequest, match="inference_geo"):
        agents.resolve(tx, actor.workspace_id, AgentOverrides.model_validate(given))


def test_overrides_reach_the_copies_of_the_agent_alone(tx: Tx, actor: Actor) -> None:
    worker = make(tx, actor, "worker", system="own")
    lead = make(tx, actor, "lead", multiagent=roster(worker.id, {"type": "self"}))
    given = {"type": "agent_with_overrides", "id": lead.id, "system": "other"}
    taken = agents.resolve(tx, actor.workspace_id, AgentOverrides.model_validate(given))
    assert [a["system"] for a in taken["multiagent"]["agents"]] == ["own", "other"]


def test_a_roster_of_another_workspace_is_not_seen(tx: Tx, actor: Actor) -> None:
    worker = make(tx, actor)
    owner = rosters.Owner("wrkspc_other", None, worker.body)
    sent = AgentCreate.model_validate({"name": "x", "model": "m", "multiagent": roster(worker.id)})
    with pytest.raises(InvalidRequest, match="no agent"):
        rosters.settle(tx, owner, sent.multiagent, None)


def test_an_update_that_changes_nothing_makes_no_version(tx: Tx, actor: Actor) -> None:
    worker = make(tx, actor)
    lead = make(tx, actor, "lead", multiagent=roster(worker.id, {"type": "self"}))
    same = amend(tx, actor, lead.id, multiagent=roster(worker.id, {"type": "self"}))
    assert same.version == service.get(tx, actor.workspace_id, AGENT, lead.id).version == 1


@pytest.mark.parametrize(
    "name", ["list_agents", "send_to_agent", "consult_advisor", "run_workflow", "stop_workflow"]
)
def test_a_custom_tool_cannot_stand_in_for_one_of_ours(tx: Tx, actor: Actor, name: str) -> None:
    schema = {"type": "object", "properties": {}}
    tool = {"type": "custom", "name": name, "description": "d", "input_schema": schema}
    alone = make(tx, actor, "alone", tools=[tool])
    with pytest.raises(InvalidRequest, match=name):
        amend(tx, actor, alone.id, multiagent=team())
    with pytest.raises(InvalidRequest, match=name):
        make(tx, actor, "lead", tools=[tool], multiagent=team())
