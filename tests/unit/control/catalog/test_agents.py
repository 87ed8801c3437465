from typing import Any

import pytest

from intramuros.control.catalog import agents, service
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.protocol.resources.agents import (
    Agent,
    AgentCreate,
    AgentOverrides,
    AgentReference,
    AgentUpdate,
)

CRM = {"type": "url", "name": "crm", "url": "https://crm.example/mcp"}
TOOLSET = {"type": "mcp_toolset", "mcp_server_name": "crm"}


def creating(**more: object) -> AgentCreate:
    return AgentCreate.model_validate({"name": "a", "model": "m", **more})


def updating(**fields: object) -> AgentUpdate:
    return AgentUpdate.model_validate(fields)


def overriding(**fields: object) -> AgentOverrides:
    return AgentOverrides.model_validate({"type": "agent_with_overrides", "id": "x", **fields})


STORED = agents.configure(
    creating(
        description="d",
        system="s",
        model={"id": "m", "effort": "low", "inference_geo": "us", "speed": "fast"},
        tools=[TOOLSET],
        mcp_servers=[CRM],
        metadata={"a": "1"},
        execution_identity={"type": "aws_role", "role_arn": "arn"},
    )
)


@pytest.mark.rule("c5_9")
def test_what_was_not_sent_stays() -> None:
    assert agents.amend(STORED, updating()) == STORED


@pytest.mark.parametrize(
    ("sent", "field", "expected"),
    [
        ({"name": "b"}, "name", "b"),
        ({"description": None}, "description", None),
        ({"description": ""}, "description", None),
        ({"system": ""}, "system", None),
        ({"metadata": {"a": None, "b": "2"}}, "metadata", {"b": "2"}),
        ({"metadata": None}, "metadata", {"a": "1"}),
        ({"execution_identity": None}, "execution_identity", {"type": "service_account"}),
        ({"skills": None}, "skills", []),
        ({"multiagent": None}, "multiagent", None),
    ],
)
@pytest.mark.rule("c5_9", "c5_10", "c5_11", "c5_16")
def test_one_field_changes_alone(sent: dict[str, Any], field: str, expected: object) -> None:
    changed = agents.amend(STORED, updating(**sent))
    assert changed[field] == expected
    assert {k: v for k, v in changed.items() if k != field} == {
        k: v for k, v in STORED.items() if k != field
    }


@pytest.mark.parametrize(
    ("sent", "effort", "geo", "speed"),
    [
        ("m", "low", None, "standard"),
        ({"id": "m", "inference_geo": "global"}, "low", "global", "standard"),
        ({"id": "m", "effort": "max", "speed": "fast"}, "max", None, "fast"),
        ("other", "high", None, "standard"),
    ],
)
@pytest.mark.rule("c5_5", "c5_13", "c5_14")
def test_a_model_is_replaced_but_its_effort_stays_with_its_id(
    sent: object, effort: str, geo: str | None, speed: str
) -> None:
    model = agents.amend(STORED, updating(model=sent))["model"]
    assert (model["effort"], model["inference_geo"], model["speed"]) == (
        {"type": effort},
        geo,
        speed,
    )


@pytest.mark.rule("c5_11", "c5_23", "R094", "R110")
def test_tools_and_servers_are_judged_on_the_result() -> None:
    assert agents.amend(STORED, updating(tools=[], mcp_servers=None))["tools"] == []
    for sent in ({"tools": None}, {"mcp_servers": []}):
        with pytest.raises(InvalidRequest):
            agents.amend(STORED, updating(**sent))


@pytest.mark.rule("c4_9")
def test_metadata_limits_hold_for_the_merged_bag() -> None:
    with pytest.raises(InvalidRequest, match="metadata: at most 16"):
        agents.amend(STORED, updating(metadata={f"k{i}": "v" for i in range(16)}))


def test_c5_25_c5_27_skills_default_to_latest_and_need_read() -> None:
    skill = {"type": "custom", "skill_id": "skill_1"}
    reading = [{"type": "agent_toolset_20260401"}]
    made = agents.configure(creating(skills=[skill], tools=reading))
    assert made["skills"] == [{**skill, "version": "latest"}]
    with pytest.raises(InvalidRequest, match="`read` tool"):
        agents.configure(creating(skills=[skill]))
    with pytest.raises(InvalidRequest, match="`read` tool"):
        agents.amend(made, updating(tools=[]))
    with pytest.raises(InvalidRequest, match="`read` tool"):
        agents.override(made, overriding(tools=None))
    assert agents.amend(made, updating(tools=[], skills=None))["skills"] == []
    with pytest.raises(InvalidRequest, match="appears twice"):
        agents.configure(creating(skills=[skill, {**skill, "version": "skver_1"}], tools=reading))


def test_c5_26_R201_at_most_500_skills() -> None:
    many = [{"type": "custom", "skill_id": f"skill_{n}"} for n in range(501)]
    with pytest.raises(ValueError, match="at most 500"):
        creating(skills=many)


@pytest.mark.rule("c10_3", "c10_6")
def test_overrides_replace_in_full_or_clear() -> None:
    changed = agents.override(
        STORED, overriding(model={"id": "n", "effort": "max"}, system=None, tools=[])
    )
    assert changed["model"] == {
        "id": "n",
        "effort": {"type": "high"},
        "inference_geo": None,
        "speed": "standard",
    }
    assert (changed["system"], changed["tools"]) == (None, [])
    assert agents.override(STORED, overriding()) == STORED


@pytest.mark.rule("c10_4", "R110")
def test_overrides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        agents.override(STORED, overriding(model=None))
    assert caught.value.hints.code == "agent_model_required"
    with pytest.raises(InvalidRequest, match="'crm'"):
        agents.override(STORED, overriding(mcp_servers=[]))


@pytest.mark.rule("c10_2", "c10_5", "c10_7")
def test_a_session_gets_a_snapshot_of_the_version_it_asks_for(tx: Tx, actor: Actor) -> None:
    made = agents.create(tx, actor, creating(system="one"))
    agents.update(tx, actor, made.id, updating(system="two"))
    newest = agents.resolve(tx, "wrkspc_test", made.id)
    assert (newest["version"], newest["system"], newest["type"]) == (2, "two", "agent")
    assert "metadata" not in newest
    first = agents.resolve(tx, "wrkspc_test", AgentReference(type="agent", id=made.id, version=1))
    assert (first["version"], first["system"]) == (1, "one")
    overrides = AgentOverrides.model_validate(
        {"type": "agent_with_overrides", "id": made.id, "version": 1, "system": "mine"}
    )
    effective = agents.resolve(tx, "wrkspc_test", overrides)
    assert (effective["id"], effective["version"], effective["system"]) == (made.id, 1, "mine")
    with pytest.raises(NotFound):
        agents.resolve(tx, "wrkspc_test", "agent_none")


@pytest.mark.rule("c5_17", "c5_18")
def test_archived_agents_neither_change_nor_start_sessions(tx: Tx, actor: Actor) -> None:
    made = agents.create(tx, actor, creating())
    service.archive(tx, actor, made)
    with pytest.raises(InvalidRequest, match="archived"):
        agents.resolve(tx, "wrkspc_test", made.id)
    with pytest.raises(InvalidRequest, match="archived"):
        agents.update(tx, actor, made.id, updating(name="b"))


@pytest.mark.rule("c5_8")
def test_a_stale_update_conflicts_even_if_it_changes_nothing(tx: Tx, actor: Actor) -> None:
    made = agents.create(tx, actor, creating())
    agents.update(tx, actor, made.id, updating(name="b", version=1))
    with pytest.raises(Conflict):
        agents.update(tx, actor, made.id, updating(name="b", version=1))


def test_answers_fit_their_model(tx: Tx, actor: Actor) -> None:
    made = agents.create(tx, actor, creating(tools=[TOOLSET], mcp_servers=[CRM]))
    for resource in (made, service.archive(tx, actor, made)):
        Agent.model_validate(agents.present(resource))
