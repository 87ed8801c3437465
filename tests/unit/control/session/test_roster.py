from intramuros.control.session.roster import crew_of, delegation_tools
from tests.fakes.band import definition, lead

OFF = {"type": "disabled"}
SCOUT, CLERK = definition("scout"), definition("clerk")


def members(**more: object) -> dict[str, object]:
    team = {"type": "enabled", "inline_agents": {"type": "enabled"}, "predefined_agents": [SCOUT]}
    return {"type": "multiagent_20261001", "subagents": team, "advisor": OFF, **more}


def test_without_a_configuration_there_are_no_tools() -> None:
    assert delegation_tools(None) == {}
    assert delegation_tools(members(subagents=OFF)) == {}


def test_both_configurations_are_read_alike() -> None:
    old = crew_of(lead(SCOUT, CLERK, advisor=True)["multiagent"])
    assert list(old.agents) == ["scout", "clerk"]
    assert (old.inline, old.advisor) == (False, "wise-model")
    new = crew_of(members(advisor={"type": "enabled", "model": "wise-model"}))
    assert list(new.agents) == ["scout"]
    assert (new.inline, new.advisor) == (True, "wise-model")


def test_two_agents_of_one_name_are_told_apart() -> None:
    twin = {**SCOUT, "id": "agent_2"}
    crew = crew_of(lead(SCOUT, twin)["multiagent"])
    ids = {name: agent["id"] for name, agent in crew.agents.items()}
    assert ids == {"scout": "agent_scout", "scout (2)": "agent_2"}


def test_the_tools_say_what_there_is() -> None:
    tools = delegation_tools(lead(SCOUT, advisor=True)["multiagent"])
    assert list(tools) == ["list_agents", "send_to_agent", "consult_advisor"]
    sending = tools["send_to_agent"][1]["properties"]
    assert sending["agent"]["enum"] == ["scout"]
    assert "Does scout." in sending["agent"]["description"]
    assert "inline_agent" not in sending
    assert "inline_agent" in delegation_tools(members())["send_to_agent"][1]["properties"]
    alone = delegation_tools(lead(advisor=True)["multiagent"])
    assert list(alone) == ["consult_advisor"]
