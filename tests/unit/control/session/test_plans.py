from typing import Any

import pytest

from intramuros.control.session.plans import TooManySteps, Unsound, read, workers_of, workflow_tools
from intramuros.control.session.roster import Crew
from intramuros.control.session.runs import MAX_STEPS
from tests.fakes.band import definition, lead
from tests.fakes.flows import OFF, phase, planner, step

SCOUT = definition("scout")
CREW = Crew({"scout": SCOUT}, inline=True, advisor=None)
FIXED = Crew({"scout": SCOUT}, inline=False, advisor=None)


def plan(*phases: Any, **more: Any) -> dict[str, Any]:
    return {"name": "p", "phases": list(phases), **more}


def test_a_sound_plan_is_read_as_written() -> None:
    critic = {"name": "critic", "system": "Find faults."}
    given = plan(
        phase("look", step("a"), step("b")),
        phase("judge", step("c", "critic", "a")),
        description="  why ",
        inline_agents=[critic],
    )
    found = read(given, CREW)
    assert found.description == "  why ", "passed on as written"
    assert [s.name for s in found.steps] == ["a", "b", "c"]
    assert [s.name for s in found.unused] == ["b", "c"]
    assert read({"phases": [phase("x", step("a"))]}, CREW).name == "workflow"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (None, "the input: "),
        ({}, "phases: Field required"),
        (plan(), "phases: "),
        (plan(phase("x")), "phases[0].steps: "),
        (plan({"steps": [step("a")]}), "phases[0].name: "),
        (plan(phase("x", {**step("a"), "prompt": " "})), "steps[0].prompt: must not be empty"),
        (plan(phase("x", {**step("a"), "prompt": 1})), "phases[0].steps[0].prompt: "),
        (plan(phase("x", {**step("a"), "when": 1})), "steps[0].when: Extra inputs"),
        (plan(phase("x", step("n" * 257))), "phases[0].steps[0].name: "),
        (plan(phase("x", step("a"), step("a"))), "steps[1].name: 'a' is the name of another"),
        (plan(phase("x", step("a", "nobody"))), "no agent 'nobody'; known: 'scout'"),
        (plan(phase("x", step("a"), step("b", "scout", "a"))), "'a' is no step of an earlier"),
        (plan(phase("x", step("a", "scout", "a"))), "no step of an earlier phase"),
        (plan(phase("x", step("a")), inline_agents=[{"name": "scout", "system": "s"}]), "taken"),
        (
            plan(
                phase("x", step("a")), inline_agents=[{"name": "anthropic.advisor", "system": "s"}]
            ),
            "taken",
        ),
        (plan(phase("x", step("a")), inline_agents=[{"name": "i"}]), "inline_agents[0].system"),
    ],
)
def test_the_model_is_told_what_to_mend(given: object, why: str) -> None:
    with pytest.raises(Unsound) as refused:
        read(given, CREW)
    assert why in str(refused.value)
    assert "start it again" in str(refused.value)


def test_several_problems_are_told_at_once_but_not_all() -> None:
    steps = [step(f"s{n}", "nobody") for n in range(12)]
    with pytest.raises(Unsound) as refused:
        read(plan(phase("x", *steps)), CREW)
    assert "phases[0].steps[7].agent" in str(refused.value)
    assert "steps[8]" not in str(refused.value)
    assert "and 4 more" in str(refused.value)


def test_agents_are_only_defined_where_that_is_on() -> None:
    inline = [{"name": "i", "system": "s"}]
    with pytest.raises(Unsound, match="cannot define agents"):
        read(plan(phase("x", step("a", "i")), inline_agents=inline), FIXED)


def test_a_plan_has_a_bounded_number_of_steps() -> None:
    assert len(read(plan(phase("x", *(step(f"s{n}") for n in range(MAX_STEPS)))), CREW).steps) == 25
    with pytest.raises(TooManySteps, match="26 steps"):
        read(plan(phase("x", *(step(f"s{n}") for n in range(MAX_STEPS + 1)))), CREW)


@pytest.mark.rule("c7_11")
def test_the_tools_say_whom_a_plan_may_employ() -> None:
    both = workflow_tools(planner(SCOUT)["multiagent"])
    assert list(both) == ["run_workflow", "stop_workflow"]
    schema: Any = both["run_workflow"][1]["properties"]
    agent = schema["phases"]["items"]["properties"]["steps"]["items"]["properties"]["agent"]
    assert "enum" not in agent
    assert "scout: Does scout." in agent["description"]
    assert "inline_agents" in schema
    fixed: Any = workflow_tools(planner(SCOUT, inline=False)["multiagent"])["run_workflow"][1]
    assert "inline_agents" not in fixed["properties"]
    part = fixed["properties"]["phases"]["items"]["properties"]["steps"]["items"]["properties"]
    assert part["agent"]["enum"] == ["scout"]


def test_without_workflows_there_are_no_tools() -> None:
    off = {**planner(SCOUT)["multiagent"], "workflows": OFF}
    for multiagent in (None, lead(SCOUT)["multiagent"], off):
        assert workflow_tools(multiagent) == {}
        assert workers_of(multiagent) == Crew({}, inline=False, advisor=None)
