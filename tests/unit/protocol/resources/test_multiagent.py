import pytest
from pydantic import TypeAdapter, ValidationError

from intramuros.protocol.resources.multiagent import (
    Coordinator,
    Members,
    MultiagentParam,
    RosterAdvisor,
    RosterAgent,
    RosterSelf,
)

PARAM: TypeAdapter[Coordinator | Members] = TypeAdapter(MultiagentParam)


def coordinator(*agents: object) -> dict[str, object]:
    return {"type": "coordinator", "agents": list(agents)}


@pytest.mark.rule("c7_1", "c7_2")
def test_every_form_of_a_roster_entry_is_taken() -> None:
    read = PARAM.validate_python(
        coordinator(
            "agent_1",
            {"type": "agent", "id": "agent_2", "version": 3},
            {"type": "self"},
            {"type": "advisor", "model": "m"},
        )
    )
    assert isinstance(read, Coordinator)
    text, agent, own, advisor = read.agents
    assert text == "agent_1"
    assert isinstance(agent, RosterAgent)
    assert agent.version == 3
    assert isinstance(own, RosterSelf)
    assert isinstance(advisor, RosterAdvisor)


@pytest.mark.rule("c7_1", "c7_2")
@pytest.mark.parametrize(
    "sent",
    [
        {"type": "team"},
        {"agents": ["agent_1"]},
        coordinator(),
        coordinator(*(f"agent_{n}" for n in range(21))),
        coordinator({"type": "other"}),
        coordinator({"type": "advisor"}),
        coordinator({"type": "advisor", "model": "m", "max_uses": 1}),
        coordinator({"type": "agent", "id": "agent_1", "version": 0}),
        coordinator({"type": "agent"}),
        coordinator(""),
        {"type": "multiagent_20261001", "subagents": {"inline_agents": None}},
        {"type": "multiagent_20261001", "advisor": {"type": "enabled"}},
        {"type": "multiagent_20261001", "more": {}},
        {
            "type": "multiagent_20261001",
            "subagents": {"type": "enabled", "predefined_agents": ["a"] * 21},
        },
        {
            "type": "multiagent_20261001",
            "subagents": {
                "type": "enabled",
                "predefined_agents": [{"type": "advisor", "model": "m"}],
            },
        },
        {"type": "multiagent_20261001", "workflows": {"type": "disabled", "inline_agents": None}},
    ],
)
def test_everything_else_is_refused(sent: object) -> None:
    with pytest.raises(ValidationError):
        PARAM.validate_python(sent)
