"""What workflow runs do: begin with a call of the agent's, go on by themselves, and end. Pure.

:func:`intramuros.control.session.runs.move` says what a run does next; here are the rows of it.
They are written with those of the threads, in one transaction, so nothing of a run is half done.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from intramuros.control.session import delegation, plans, runs
from intramuros.control.session.calls import Call
from intramuros.control.session.conversation import Block
from intramuros.control.session.drafts import processed, request_lost, thread_ended
from intramuros.control.session.plans import Plan, Step, TooManySteps, Unsound
from intramuros.control.session.runs import Move, Run
from intramuros.control.session.state import Member, State
from intramuros.control.session.turn import Context
from intramuros.control.session.view import View, identified
from intramuros.control.store.records import Draft, Record
from intramuros.protocol.resources.multiagent import RUN_TOOL, STOP_TOOL

TOOLS: Final = frozenset({RUN_TOOL, STOP_TOOL})
# Text of results that one prompt, or one report, carries in all.
MAX_RESULT_CHARS: Final = 100_000
# Moves of all runs until each waits: a few for each step, phase and run.
_MAX_MOVES: Final = 16 * runs.MAX_RUNS * runs.MAX_STEPS
# Why a step has no result, where its agent does not say.
INTERRUPTED: Final = "it was interrupted"
_ARCHIVED: Final = "its thread was ended by the client"

# The contract wants no word of the run or its agents in them.
_LIMITED: Final = f"the session has {runs.MAX_RUNS} open workflow runs, which is the limit"
_REFUSED: Final = "the plan was refused"
_LARGE: Final = f"the plan has more steps than the {runs.MAX_STEPS} threads a run may create"
_FULL: Final = f"the session has {runs.MAX_THREADS} open threads, which is the limit"
_STEP_FAILED: Final = "a step of the plan ended without a result"
_TIMED_OUT: Final = "the run reached its time limit"

Json = Mapping[str, Any]


def perform(view: View, call: Call, context: Context) -> list[Draft]:
    """Return the rows of the agent's call to start or stop a run, and its result.

    Args:
        view: the session's.
    """
    use = view.find([call.id])[0]
    given: Any = use.body["input"]
    if use.body["name"] == RUN_TOOL:
        return _start(view, call, given, context)
    return _stop(view, call, given)


def advance(view: View, context: Context) -> tuple[list[Draft], View]:
    """Return what the runs of a session do by themselves now, and the view behind it."""
    drafts: list[Draft] = []
    for _ in range(_MAX_MOVES):
        moved = next(filter(None, (_moved(view, run, context) for run in view.state.runs)), None)
        if moved is None:
            return drafts, view
        added = identified(moved, context.new_id)
        drafts += added
        view = view.expect(added, context.now_us, context.new_id)
    raise RuntimeError(f"the runs of {view.subject.session_id} never wait")


def deadlines(state: State, context: Context) -> dict[str, int]:
    """Return when each run that is running reaches its time limit, by its id."""
    limit_us = round(context.limits.run_s * 1_000_000)
    times = {run.id: run.deadline_us(limit_us) for run in state.runs}
    return {run_id: at_us for run_id, at_us in times.items() if at_us is not None}


def ended(child: View, said: Sequence[Block], why: str | None) -> Draft:
    """Return the row that a step's thread leaves when its step has ended.

    Args:
        child: the thread's.
        said: the step's result.
        why: what kept it from one; None if it has one.
    """
    body = {
        "workflow_run_id": child.state.run_id,
        "done": why is None,
        "content": list(said) if why is None else [_text(why)],
    }
    return Draft(runs.STEP_ENDED, body, thread_id=child.thread_id)


def closing(state: State) -> list[Draft]:
    """Return the rows that end every run, and all threads, of a session that is archived."""
    drafts: list[Draft] = []
    for run in state.runs:
        members = [m for m in _members(state) if m.state.run_id == run.id]
        drafts += [thread_ended(m.state.thread_id, m.name) for m in members]
        drafts += _finish(run, {"type": "stopped"})
    plain = [m for m in _members(state) if m.state.run_id is None]
    return drafts + [thread_ended(m.state.thread_id, m.name) for m in plain]


def _start(view: View, call: Call, given: object, context: Context) -> list[Draft]:
    crew = plans.workers_of(view.subject.agent.get("multiagent"))
    if len(view.state.runs) >= runs.MAX_RUNS:
        open_runs = _named(view)
        said = f"{runs.MAX_RUNS} workflow runs are open, which is the limit: {open_runs}. "
        said += f"Wait until one has ended, or stop one with {STOP_TOOL}."
        return [_error("max_workflow_runs_error", _LIMITED), _refusal(call, said)]
    try:
        plan = plans.read(given, crew)
    except TooManySteps as error:
        return [_error("thread_limit_error", _LARGE), _refusal(call, str(error))]
    except Unsound as error:
        return [_error("program_error", _REFUSED), _refusal(call, str(error))]
    if view.state.slots >= runs.MAX_THREADS:
        said = f"{runs.MAX_THREADS} threads are open, which is the limit, so no run can start."
        return [_error("unknown_error", _FULL), _refusal(call, said)]
    run_id = "wrun_" + context.new_id().removeprefix("sevt_")
    shown = [
        {
            "id": "wrph_" + context.new_id().removeprefix("sevt_"),
            "name": phase.name,
            "description": phase.description,
        }
        for phase in plan.phases
    ]
    body = {
        "workflow_run_id": run_id,
        "name": plan.name,
        "description": plan.description,
        "phases": shown,
    }
    kept = {"plan": plan.model_dump(), "steps": [len(phase.steps) for phase in plan.phases]}
    told = runs.IDLE if view.state.capped() else runs.RUNNING
    said = (
        f"The workflow run {run_id} has started. You get a message with its results when it has "
        f"ended; {STOP_TOOL} stops it."
    )
    return [
        Draft(runs.CREATED, body, private=kept),
        Draft(told, {"workflow_run_id": run_id}),
        delegation.answer(call, said),
    ]


def _stop(view: View, call: Call, given: Json) -> list[Draft]:
    run = next((r for r in view.state.runs if r.id == given.get("workflow_run_id")), None)
    if run is None:
        named = str(given.get("workflow_run_id"))[:80]
        said = f"There is no open workflow run {named!r}; open: {_named(view)}."
        return [_refusal(call, said)]
    plan = _plan_of(view, run)
    said = f"The workflow run {plan.name!r} ({run.id}) is stopped."
    found = _results(view, run, plan.steps, complete=False)
    return [
        *_wind_down(view, run),
        *_finish(run, {"type": "stopped"}),
        delegation.answer(call, said, *found),
    ]


def _moved(view: View, run: Run, context: Context) -> list[Draft] | None:
    """Return what one run does next; None if it waits."""
    until_us = deadlines(view.state, context).get(run.id)
    if not run.stopping and until_us is not None and context.now_us >= until_us:
        return _failed(view, run, "timeout_error", _TIMED_OUT)
    move = runs.move(run, view.state.stand(run))
    return None if move is None else _MOVES[move](view, run, context)


def _lost(view: View, run: Run, context: Context) -> list[Draft]:
    """Give up the steps whose threads were interrupted before they began."""
    rests = view.state.stand(run).lost
    return [ended(view.of(thread_id), (), INTERRUPTED) for thread_id in rests]


def _entered(view: View, run: Run, context: Context) -> list[Draft]:
    phase_id = run.phases[run.place + 1][0]
    body = {"workflow_run_id": run.id, "workflow_run_phase_id": phase_id}
    return [Draft(runs.PHASE_STARTED, body)]


def _begin(view: View, run: Run, context: Context) -> list[Draft]:
    """Start the next step of the open phase, in a thread of its own (contract 19.11, 19.13)."""
    plan = _plan_of(view, run)
    step = plan.phases[run.place].steps[run.begun]
    agent = _agent_of(view, plan, step)
    used = [other for other in plan.steps if other.name in step.uses]
    # Each text is a block of its own, so that no result can pass for another one or for the prompt.
    content = [_text(said) for said in (step.prompt, *_results(view, run, used))]
    thread_id = delegation.thread_id(context)
    return [
        delegation.created(
            thread_id, str(agent["name"]), agent, run_id=run.id, private={"step": step.name}
        ),
        *delegation.deliver(view, thread_id, str(agent["name"]), content),
    ]


def _agent_of(view: View, plan: Plan, step: Step) -> Json:
    crew = plans.workers_of(view.subject.agent.get("multiagent"))
    if step.agent in crew.agents:
        return crew.agents[step.agent]
    made = next(agent for agent in plan.inline_agents if agent.name == step.agent)
    return delegation.inline_agent(view.subject.agent, made.name, made.system)


def _completed(view: View, run: Run, context: Context) -> list[Draft]:
    plan = _plan_of(view, run)
    said = f"The workflow run {plan.name!r} ({run.id}) has completed."
    found = _results(view, run, plan.unused)
    return [
        *_wind_down(view, run),
        *_finish(run, {"type": "completed"}),
        Draft(runs.REPORT, _told_of(run, said, *found), queued=True),
    ]


def _failed(view: View, run: Run, type: str, message: str) -> list[Draft]:
    plan = _plan_of(view, run)
    said = f"The workflow run {plan.name!r} ({run.id}) failed: {message}."
    found = _results(view, run, plan.steps)
    error = {"type": type, "message": message}
    return [
        *_wind_down(view, run),
        *_finish(run, {"type": "error", "error": error}),
        Draft(runs.REPORT, _told_of(run, said, *found), queued=True),
    ]


def _stopped(view: View, run: Run, context: Context) -> list[Draft]:
    """End a run that a client's interrupt stopped; its agent hears of it with the next prompt."""
    plan = _plan_of(view, run)
    said = f"The workflow run {plan.name!r} ({run.id}) was stopped by an interrupt of the user."
    found = _results(view, run, plan.steps, complete=False)
    return [
        *_wind_down(view, run),
        *_finish(run, {"type": "stopped"}),
        Draft(runs.NOTE, _told_of(run, said, *found)),
    ]


def _wind_down(view: View, run: Run) -> list[Draft]:
    """End the threads of a run; their open calls can get no result any more (contract 19.13)."""
    drafts: list[Draft] = []
    for member in _members(view.state):
        thread = member.state
        if thread.run_id != run.id:
            continue
        if thread.request is not None:
            lost = request_lost(thread.request.start_id)
            drafts.append(Draft(lost.type, lost.body, thread_id=thread.thread_id))
        drafts += [_heard(record, thread) for record in view.of(thread.thread_id).waiting()]
        drafts.append(thread_ended(thread.thread_id, member.name))
    return drafts


def _heard(record: Record, thread: State) -> Draft:
    if record.thread_id == thread.thread_id:
        return processed(record)
    # An interrupt of the whole session, whose own row is the primary thread's.
    body = {"interrupt_id": record.id}
    return Draft("internal.interrupt_heard", body, thread_id=thread.thread_id)


def _finish(run: Run, result: Json) -> list[Draft]:
    """Close what is open of a run and end it (contract 15.28)."""
    drafts = [_left(run)] if run.started_id is not None else []
    if result["type"] == "error":
        body = {"workflow_run_id": run.id, "error": result["error"]}
        drafts.append(Draft(runs.ERROR, body))
    return [*drafts, Draft(runs.ENDED, {"workflow_run_id": run.id, "result": dict(result)})]


def _left(run: Run) -> Draft:
    body = {
        "workflow_run_id": run.id,
        "workflow_run_phase_id": run.phases[run.place][0],
        "phase_started_id": run.started_id,
    }
    return Draft(runs.PHASE_ENDED, body)


def _results(view: View, run: Run, steps: Sequence[Step], *, complete: bool = True) -> list[str]:
    """Return the results of steps, each under its name, cut to what fits.

    Args:
        complete: also name the steps that came to nothing; else those are left out.
    """
    known = _outcomes(view, run)
    room = MAX_RESULT_CHARS // max(1, len(steps))
    parts: list[str] = []
    for step in steps:
        outcome = known.get(step.name)
        if outcome is None:
            continue
        if outcome["done"]:
            parts.append(f"Result of the step {step.name!r}:\n{_plain(outcome['content'], room)}")
        elif complete:
            why = _plain(outcome["content"], room)
            parts.append(f"The step {step.name!r} has no result: {why}.")
    return parts


def _outcomes(view: View, run: Run) -> dict[str, Json]:
    """Return what is known of each step that was begun, by its name."""
    steps: dict[str, str] = {}
    found: dict[str, Json] = {}
    for record in reversed(view.records):
        if record.id == run.created_id:
            break
        if record.body.get("workflow_run_id") != run.id:
            continue
        if record.type == runs.STEP_ENDED:
            found[str(record.thread_id)] = record.body
        elif record.type == "session.thread_created":
            name = str((record.private or {})["step"])
            steps[name] = str(record.body["session_thread_id"])
    alive = {member.state.thread_id for member in _members(view.state)}
    gone = {"done": False, "content": [_text(_ARCHIVED)]}
    outcomes = {name: found.get(thread_id) for name, thread_id in steps.items()}
    return {
        name: outcome or gone
        for name, outcome in outcomes.items()
        if outcome or steps[name] not in alive
    }


def _plan_of(view: View, run: Run) -> Plan:
    created = view.find([run.created_id])[0]
    return Plan.model_validate((created.private or {})["plan"])


def _plain(content: Sequence[Block], room: int) -> str:
    said = "\n".join(str(block.get("text", "")) for block in content)
    if len(said) <= room:
        return said
    return f"{said[:room]}\n[{len(said) - room} characters left out]"


def _members(state: State) -> tuple[Member, ...]:
    return () if state.crew is None else state.crew.members


def _named(view: View) -> str:
    """Return the open runs as an error names them."""
    names = {run.id: _plan_of(view, run).name for run in view.state.runs}
    return ", ".join(f"{run_id} ({json.dumps(name)})" for run_id, name in names.items()) or "none"


def _told_of(run: Run, *said: str) -> Json:
    return {"workflow_run_id": run.id, "content": [_text(part) for part in said]}


def _error(type: str, message: str) -> Draft:
    """Tell clients why no run was created (contract 14.8)."""
    body = {"workflow_run_id": None, "error": {"type": type, "message": message}}
    return Draft(runs.ERROR, body)


def _refusal(call: Call, said: str) -> Draft:
    return delegation.answer(call, said, is_error=True)


def _text(said: str) -> Block:
    return {"type": "text", "text": said}


def _status(type: str) -> Callable[[View, Run, Context], list[Draft]]:
    return lambda view, run, context: [Draft(type, {"workflow_run_id": run.id})]


_MOVES: Final[Mapping[Move, Callable[[View, Run, Context], list[Draft]]]] = {
    Move.STOP: _stopped,
    Move.LOSE: _lost,
    Move.RUN: _status(runs.RUNNING),
    Move.OPEN: _entered,
    Move.BEGIN: _begin,
    Move.CLOSE: lambda view, run, context: [_left(run)],
    Move.COMPLETE: _completed,
    Move.FAIL: lambda view, run, context: _failed(view, run, "program_error", _STEP_FAILED),
    Move.REST: _status(runs.IDLE),
}
