"""Agents that start workflow runs, and what they write."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from intramuros.control.session.fold import fold
from intramuros.control.session.state import load
from intramuros.control.store.records import Record
from tests.fakes.band import Band, definition
from tests.fakes.loop import ALLOW, ASK, CUSTOM, text, toolset, uses

OFF = {"type": "disabled"}
ON = {"type": "enabled"}
PREFIX = "workflow_run."


def planner(
    *workers: Mapping[str, Any],
    inline: bool = True,
    subagents: Mapping[str, Any] = OFF,
    tools: tuple[Mapping[str, object], ...] = (),
    **more: object,
) -> dict[str, Any]:
    """An agent whose workflow runs may employ these workers."""
    team = {"type": "enabled", "inline_agents": ON if inline else OFF}
    return {
        **definition("lead", *tools),
        "multiagent": {
            "type": "multiagent_20261001",
            "subagents": subagents,
            "workflows": {**team, "predefined_agents": list(workers)},
            "advisor": OFF,
            **more,
        },
    }


def step(name: str, agent: str = "scout", *uses: str, prompt: str = "") -> dict[str, object]:
    used = {"uses": list(uses)} if uses else {}
    return {"name": name, "agent": agent, "prompt": prompt or f"do {name}", **used}


def phase(name: str, *steps: Mapping[str, object]) -> dict[str, object]:
    return {"name": name, "steps": list(steps)}


def flow(
    *phases: Mapping[str, object], model_id: str = "toolu_w", **more: object
) -> dict[str, Any]:
    """The call that starts a run."""
    given = {"name": "the run", "phases": list(phases), **more}
    return {"type": "tool_use", "id": model_id, "name": "run_workflow", "input": given}


def of_run(band: Band, run_id: str | None = None) -> list[Record]:
    """The events of workflow runs that clients see."""
    shown = [r for r in band.shown() if r.type.startswith(PREFIX)]
    return [r for r in shown if run_id is None or r.body["workflow_run_id"] == run_id]


def kinds(band: Band) -> list[str]:
    return [record.type.removeprefix(PREFIX) for record in of_run(band)]


def check_runs(records: list[Record]) -> None:
    """What the contract promises of the events of each run (15.28), of runs that have ended."""
    ids = [r.body["workflow_run_id"] for r in records if r.type == PREFIX + "created"]
    assert len(set(ids)) == len(ids)
    for run_id in ids:
        own = [r for r in records if r.body.get("workflow_run_id") == run_id]
        check_run([r for r in own if r.type.startswith(PREFIX)])
        (end,) = (r for r in own if r.type == PREFIX + "status_ended")
        started = {r.body["session_thread_id"] for r in own if r.type == "session.thread_created"}
        over = {
            r.thread_id: r.seq
            for r in records
            if r.type == "session.thread_status_terminated" and r.thread_id in started
        }
        assert started == over.keys(), "its threads end with it"
        assert all(seq < end.seq for seq in over.values())


def check_run(events: list[Record]) -> None:
    types = [event.type.removeprefix(PREFIX) for event in events]
    assert types[0] == "created"
    assert types[1] in ("status_running", "status_idle")
    assert types[-1] == "status_ended"
    assert types.count("created") == types.count("status_ended") == 1
    statuses = [t for t in types if t in ("status_running", "status_idle")]
    assert all(a != b for a, b in pairwise(statuses))
    body: Any = events[0].body
    declared = [part["id"] for part in body["phases"]]
    opened: list[object] = []
    open_id = None
    for event in events:
        if event.type == PREFIX + "phase_started":
            assert open_id is None
            open_id = event.id
            opened.append(event.body["workflow_run_phase_id"])
        elif event.type == PREFIX + "phase_ended":
            assert event.body["phase_started_id"] == open_id
            assert event.body["workflow_run_phase_id"] == opened[-1]
            open_id = None
    assert open_id is None
    assert opened == declared[: len(opened)]
    result: Any = events[-1].body["result"]
    errors = [event.body["error"] for event in events if event.type == PREFIX + "error"]
    assert errors == ([result["error"]] if result["type"] == "error" else [])
    if result["type"] == "completed":
        assert opened == declared
    if errors:
        assert types[-2] == "error"


SCOUT = definition("scout", toolset(ALLOW))
CAREFUL = definition("careful", toolset(ASK))
CLERK = definition("clerk", CUSTOM)
MAPS = phase("look", step("north"), step("south"))
JUDGE = phase("judge", step("verdict", "clerk", "north", "south"))


def started(*calls: Any, agents: Any = (SCOUT, CAREFUL, CLERK), **more: Any) -> Band:
    """A session whose agent has made these calls, and ended its turn."""
    band = Band(
        planner(*agents, **more.pop("planner", {})),
        lead=[uses(*calls), text("they work"), *more.pop("lead", [])],
        **more,
    )
    band.log.say("go")
    band.next()
    band.land("sthr_main")
    band.next()
    band.land("sthr_main")
    band.next()
    return band


def result_of(band: Band) -> Any:
    return of_run(band)[-1].body["result"]


def refusals(band: Band) -> list[Any]:
    """The errors that kept runs from being created."""
    found: list[Any] = [r.body for r in of_run(band) if r.body["workflow_run_id"] is None]
    return found


def told(band: Band) -> list[dict[str, Any]]:
    """The results of the agent's calls."""
    found: list[Any] = [r.body for r in band.log.records if r.type == "internal.crew_result"]
    return found


def heard(band: Band) -> str:
    """What the agent's model was sent last."""
    return str([request for name, request in band.requests if name == "lead"][-1].messages[-1])


def taken_over(band: Band, cut: int) -> Band:
    """Somebody else, who takes over behind a record."""
    again = Band(band.subject.agent)
    for record in band.log.records[:cut]:
        again.log.records.append(record)
        again.log.state = load(fold(again.log.state, record).dump())
    again.log.now_us = again.log.records[-1].at_us
    again.log.new_id = iter(f"sevt_again_{n}" for n in range(10_000)).__next__  # type: ignore[method-assign]
    again.crash()
    return again
