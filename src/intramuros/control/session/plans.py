"""The plans of workflow runs: what a model may write, and what it is told when it goes wrong. Pure.

A plan is data, not a program: phases that follow each other, steps within a phase that run at the
same time, and for each step who works on it, on what, and which earlier results it is given. So
what a run may do is known before it begins, and every plan comes to an end.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from intramuros.control.session.roster import Crew, Definitions, crew_of, described, schema
from intramuros.control.session.runs import MAX_STEPS
from intramuros.protocol.resources.multiagent import ADVISOR_NAME, RUN_TOOL, STOP_TOOL

# Problems of one plan that its writer is told at once.
_MAX_PROBLEMS: Final = 8
UNNAMED: Final = "workflow"

Name = Annotated[str, StringConstraints(pattern=r"\S", max_length=256)]
Words = Annotated[str, StringConstraints(pattern=r"\S")]

_RUN: Final = (
    "Start a workflow run: a plan of work for several agents that goes on in the background. Its "
    "phases follow each other; the steps of one phase run at the same time, each by an agent in a "
    "thread of its own. An agent knows only the prompt of its step and the results that the step "
    "uses, but shares your sandbox and its files. What it says last is the step's result. The call "
    "returns at once. When the run has ended you get a message with the results that no other step "
    "used, so end your turn if there is nothing else to do. Use it where the parts of the work are "
    f"known beforehand. A plan has at most {MAX_STEPS} steps. If a step fails, its phase is "
    "finished and the run ends there."
)
_STOP: Final = (
    "Stop a workflow run before it has ended: its agents stop at once, and what its finished steps "
    "came to is returned."
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class InlineAgent(_Part):
    """An agent that the plan itself defines."""

    name: Name
    system: Words


class Step(_Part):
    """One agent's work.

    Args:
        name: by which later steps and the report refer to it.
        agent: a saved agent that the run may use, or an inline one of this plan.
        uses: steps of earlier phases whose results it is given.
    """

    name: Name
    agent: str
    prompt: Words
    uses: list[str] = []


class Phase(_Part):
    """Steps that run at the same time."""

    name: Name
    description: str | None = None
    steps: Annotated[list[Step], Field(min_length=1)]


class Plan(_Part):
    """What a run does."""

    name: Name = UNNAMED
    description: str | None = None
    inline_agents: list[InlineAgent] = []
    phases: Annotated[list[Phase], Field(min_length=1)]

    @property
    def steps(self) -> list[Step]:
        """All steps, in the plan's order."""
        return [step for phase in self.phases for step in phase.steps]

    @property
    def unused(self) -> list[Step]:
        """The steps whose results no other step is given: what the run is for."""
        used = {name for step in self.steps for name in step.uses}
        return [step for step in self.steps if step.name not in used]


class Unsound(ValueError):
    """A plan that cannot be run; its text tells the model what to mend."""


class TooManySteps(Unsound):
    """A plan of more steps than a run may have threads."""


def read(given: object, crew: Crew) -> Plan:
    """Return the plan that a model wrote.

    Args:
        crew: whom the run may employ.

    Raises:
        Unsound: naming the problems, several at once.
        TooManySteps: it is well-formed but too large.
    """
    try:
        plan = Plan.model_validate(given)
    except ValidationError as error:
        problems = [f"{_place(e['loc'])}: {_why(e)}" for e in error.errors(include_url=False)]
        raise _unsound(problems) from error
    if len(plan.steps) > MAX_STEPS:
        raise TooManySteps(
            f"The plan has {len(plan.steps)} steps; a run may have {MAX_STEPS}. Put more into one "
            "step, or make it two runs after each other."
        )
    if problems := [*_agent_problems(plan, crew), *_step_problems(plan, crew)]:
        raise _unsound(problems)
    return plan


def workflow_tools(multiagent: Mapping[str, Any] | None) -> Definitions:
    """Return the tools with which an agent starts and stops runs, by name."""
    crew = workers_of(multiagent)
    if not (crew.agents or crew.inline):
        return {}
    run_id = {"type": "string", "description": "The id that the start of the run returned."}
    return {
        RUN_TOOL: (_RUN, _schema(crew)),
        STOP_TOOL: (_STOP, schema(["workflow_run_id"], workflow_run_id=run_id)),
    }


def workers_of(multiagent: Mapping[str, Any] | None) -> Crew:
    """Return whom an agent's workflow runs may employ; as the session shows the configuration."""
    return crew_of(multiagent, "workflows")


def _schema(crew: Crew) -> Mapping[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    agent = {**text, "description": f"Who works on it. {described(crew)}".strip()}
    if crew.inline:
        agent["description"] += " Or the name of one of this plan's inline_agents."
    else:
        agent["enum"] = list(crew.agents)
    step = schema(
        ["name", "agent", "prompt"],
        name={**text, "description": "Unique in the plan; later steps use its result by it."},
        agent=agent,
        prompt={**text, "description": "The task, with all that the agent needs to know."},
        uses={
            "type": "array",
            "items": text,
            "description": "Names of steps of earlier phases; their results are put behind the "
            "prompt.",
        },
    )
    phase = schema(
        ["name", "steps"],
        name=text,
        description=text,
        steps={"type": "array", "items": step, "minItems": 1},
    )
    inline = schema(
        ["name", "system"],
        name={**text, "description": "By which steps name it as their agent."},
        system={**text, "description": "Its instructions. It has your model and tools."},
    )
    inlines = {"inline_agents": {"type": "array", "items": inline}} if crew.inline else {}
    return schema(
        ["name", "phases"],
        name={**text, "description": "What the run is called, for people who watch it."},
        description={**text, "description": "What it is for, in a sentence."},
        **inlines,
        phases={"type": "array", "items": phase, "minItems": 1},
    )


def _agent_problems(plan: Plan, crew: Crew) -> Iterator[str]:
    taken = {ADVISOR_NAME, *crew.agents}
    if plan.inline_agents and not crew.inline:
        yield "inline_agents: you cannot define agents; name those you know"
    for index, agent in enumerate(plan.inline_agents):
        if agent.name in taken:
            yield f"inline_agents[{index}].name: {agent.name!r} is taken; choose another"
        taken.add(agent.name)


def _step_problems(plan: Plan, crew: Crew) -> Iterator[str]:
    known = {*crew.agents, *(agent.name for agent in plan.inline_agents)}
    earlier: set[str] = set()
    seen: set[str] = set()
    for number, phase in enumerate(plan.phases):
        for index, step in enumerate(phase.steps):
            where = f"phases[{number}].steps[{index}]"
            if step.name in seen:
                yield f"{where}.name: {step.name!r} is the name of another step"
            if step.agent not in known:
                names = ", ".join(map(repr, sorted(known))) or "none"
                yield f"{where}.agent: there is no agent {step.agent[:80]!r}; known: {names}"
            for used in step.uses:
                if used not in earlier:
                    yield f"{where}.uses: {used[:80]!r} is no step of an earlier phase"
            seen.add(step.name)
        earlier |= {step.name for step in phase.steps}


def _unsound(problems: list[str]) -> Unsound:
    left = len(problems) - _MAX_PROBLEMS
    more = [f"and {left} more"] if left > 0 else []
    return Unsound(
        "The plan was not started; mend it and start it again: "
        + "; ".join([*problems[:_MAX_PROBLEMS], *more])
    )


def _place(loc: tuple[int | str, ...]) -> str:
    """Return where a problem is, as a path: ``phases[0].steps[1].prompt``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part[:80]}" for part in loc]
    return "".join(parts).removeprefix(".") or "the input"


def _why(error: Mapping[str, Any]) -> str:
    if error["type"] == "string_pattern_mismatch":
        return "must not be empty"
    return str(error["msg"])
