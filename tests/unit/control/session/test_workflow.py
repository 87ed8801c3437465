from typing import Any

import pytest

from intramuros.control.model.base import ModelReply, Usage
from intramuros.control.session import workflow
from intramuros.control.session.drafts import thread_ended
from intramuros.control.session.fold import fold
from intramuros.control.session.phase import Phase, Status
from intramuros.control.session.state import initial, load
from intramuros.control.session.turn import CallModel
from intramuros.control.store.records import Draft, Record
from tests.fakes.band import Band
from tests.fakes.flows import (
    JUDGE,
    MAPS,
    ON,
    SCOUT,
    check_runs,
    flow,
    heard,
    kinds,
    of_run,
    phase,
    planner,
    result_of,
    started,
    step,
    taken_over,
    told,
)
from tests.fakes.loop import CUSTOM, away, text, use, uses


@pytest.mark.rule("c14_8", "c15_28", "c19_13")
def test_a_run_goes_through_its_phases_and_reports() -> None:
    band = started(
        flow(MAPS, JUDGE, description="Look around."),
        scout=[text("sea"), text("sand")],
        clerk=[text("nothing of use")],
        lead=[text("understood")],
    )
    run_id = of_run(band)[0].body["workflow_run_id"]
    assert band.log.state.own_status is Status.IDLE, "it goes on in the background"
    assert len(band.flights) == 2, "the steps of a phase are under way at once"
    created: Any = of_run(band)[0].public()
    assert (created["name"], created["description"]) == ("the run", "Look around.")
    assert [(p["name"], p["description"]) for p in created["phases"]] == [
        ("look", None), ("judge", None),
    ]  # fmt: skip
    band.run()
    assert kinds(band) == [
        "created",
        "status_running",
        "phase_started",
        "phase_ended",
        "phase_started",
        "phase_ended",
        "status_ended",
    ]
    assert result_of(band) == {"type": "completed"}
    check_runs(list(band.log.shown))
    asked = [str(request.messages) for name, request in band.requests if name == "clerk"]
    assert "do verdict" in asked[0]
    assert "'north':\\nsea" in asked[0]
    assert "'south':\\nsand" in asked[0]
    made = [r for r in band.shown() if r.type == "session.thread_created"]
    assert {r.body["workflow_run_id"] for r in made} == {run_id}
    assert "nothing of use" in heard(band)
    assert "sand" not in heard(band), "only what no other step used is reported"
    assert f"{run_id}) has completed" in heard(band)
    state = band.log.state
    assert state.crew is not None
    assert (state.runs, state.crew.members, state.due) == ((), (), False)
    assert band.types()[-1] == "session.status_idle"


def test_steps_see_only_what_they_use_and_each_result_is_the_last_word() -> None:
    band = started(
        flow(MAPS, phase("next", step("left", "scout", "north"))),
        scout=[
            ModelReply([{"type": "text", "text": "first"}, use("bash")], "tool_use", Usage(1, 1)),
            text("sand"),
            text("last"),
            text("left it"),
        ],
    )
    band.run()
    scout = band.log.state.threads[1]
    band.answer("user.tool_result", scout, tool_use_id=band.call(scout).id)
    band.scripts["lead"].append(text("fine"))
    band.run()
    asked = [str(r.messages[0]) for name, r in band.requests if name == "scout"]
    assert "last" in asked[-1]
    assert "first" not in asked[-1]
    assert "sand" not in asked[-1]
    assert "sand" in heard(band), "nobody used it, so it is reported"
    assert "left it" in heard(band)


def test_an_agent_of_the_plan_has_its_makers_model_and_tools() -> None:
    inline = [{"name": "critic", "system": "Find faults."}]
    band = started(
        flow(phase("judge", step("faults", "critic")), inline_agents=inline),
        planner={"tools": (CUSTOM,)},
        critic=[text("none")],
        lead=[text("good")],
    )
    made = next(r for r in band.log.records if r.type == "session.thread_created")
    agent: Any = (made.private or {})["agent"]
    assert (agent["type"], agent["name"], agent["system"]) == ("inline", "critic", "Find faults.")
    assert not agent.keys() & {"id", "version", "multiagent"}
    critic = band.view.of(band.id_of("critic"))
    assert critic.tools().keys() == {"weather"}, "and nobody to employ"
    band.run()
    assert result_of(band) == {"type": "completed"}


@pytest.mark.rule("c14_8", "c15_28")
def test_a_failed_step_ends_the_run_behind_its_phase() -> None:
    band = started(
        flow(MAPS, JUDGE), scout=[away(retryable=False), text("sand")], lead=[text("a pity")]
    )
    band.run()
    assert kinds(band)[-3:] == ["phase_ended", "error", "status_ended"]
    assert result_of(band)["error"]["type"] == "program_error"
    check_runs(list(band.log.shown))
    assert "sand" in heard(band), "what was reached is not lost"
    assert "'north' has no result" in heard(band)
    assert "'verdict'" not in heard(band), "it was never begun"
    message = of_run(band)[-2].body["error"]
    assert "north" not in str(message)
    assert "full" not in str(message), "clients read no word of the agents in it"


@pytest.mark.rule("c17_11", "c19_13")
def test_a_run_is_idle_while_its_threads_wait_for_somebody() -> None:
    band = started(
        flow(phase("look", step("a", "careful"), step("b", "clerk"))),
        careful=[uses(use("bash", command="ls")), text("listed")],
        clerk=[uses(use("weather")), text("sunny")],
        lead=[text("good")],
    )
    band.run()
    assert kinds(band)[-1] == "status_idle"
    assert band.types()[-1] == "session.status_idle"
    careful, clerk = band.child("careful").state, band.child("clerk").state
    calls = {band.call(careful).id, band.call(clerk).id}
    assert set(band.log.state.asks) == calls
    asked = [r.public() for r in band.shown() if r.id in calls]
    assert {a["session_thread_id"] for a in asked} == {careful.thread_id, clerk.thread_id}
    shell, weather = band.call(careful).id, band.call(clerk).id
    band.answer("user.tool_confirmation", careful, tool_use_id=shell, result="allow")
    band.run()
    assert kinds(band)[-1] == "status_idle", "a worker is to run it"
    band.answer("user.tool_result", band.child("careful").state, tool_use_id=shell)
    assert band.log.state.due
    band.answer("user.custom_tool_result", clerk, custom_tool_use_id=weather)
    band.run()
    assert result_of(band) == {"type": "completed"}
    check_runs(list(band.log.shown))
    (idle, running) = (kinds(band).index(f"status_{s}") for s in ("idle", "running"))
    assert running < idle


@pytest.mark.rule("c19_13")
def test_the_agent_stops_a_run_and_what_is_open_there_ends() -> None:
    band = started(
        flow(phase("look", step("a", "careful"), step("b"), step("c"))),
        careful=[uses(use("bash", command="ls"))],
        scout=[text("found")],
    )
    careful, (_, second, third) = band.id_of("careful"), list(band.flights)
    band.land(careful)
    band.next()
    band.land(second)
    band.next()
    (run,) = band.log.state.runs
    call = band.call(band.child("careful").state)
    band.scripts["lead"].append(uses(use("stop_workflow", workflow_run_id=run.id)))
    band.scripts["lead"].append(text("stopped"))
    band.log.say("enough")
    band.next()
    band.land("sthr_main")
    band.next()
    assert third not in band.flights, "its model request is not waited for"
    assert kinds(band)[-2:] == ["phase_ended", "status_ended"]
    assert result_of(band) == {"type": "stopped"}
    assert "found" in str(told(band)[-1]["content"])
    check_runs(list(band.log.shown))
    assert band.log.state.locate(call.id) is None
    answers = [r for r in band.log.records if r.body.get("tool_use_id") == call.id]
    assert answers == []
    ends = [r for r in band.log.shown if r.type == "span.model_request_end"]
    starts = [r for r in band.log.shown if r.type == "span.model_request_start"]
    assert {r.body["model_request_start_id"] for r in ends} >= {
        r.id for r in starts if r.thread_id is not None
    }
    band.run()
    assert band.types()[-1] == "session.status_idle"
    assert not any(r.type == "internal.workflow_report" for r in band.log.records)


def test_an_interrupt_of_the_session_stops_its_runs() -> None:
    band = started(
        flow(MAPS, model_id="t1"), flow(phase("x", step("a", "careful")), model_id="t2"),
        careful=[uses(use("bash", command="ls"))],
    )  # fmt: skip
    band.land(band.id_of("careful"))
    band.next()
    band.interrupt()
    assert band.log.state.due
    band.run()
    assert band.flights == {}
    ends = [r for r in of_run(band) if r.type == "workflow_run.status_ended"]
    assert [r.body["result"] for r in ends] == [{"type": "stopped"}] * 2
    check_runs(list(band.log.shown))
    assert band.types()[-1] == "session.status_idle"
    assert not band.log.state.due, "nothing is said until somebody asks"
    band.scripts["lead"].append(text("I see"))
    band.log.say("well?")
    band.run()
    assert "stopped by an interrupt" in heard(band)


@pytest.mark.rule("c13_14")
def test_an_interrupt_of_one_thread_leaves_the_run_alone() -> None:
    band = started(flow(MAPS), scout=[text("sand")], lead=[text("ok")])
    north, south = list(band.flights)
    band.log.send("user.interrupt", session_thread_id="sthr_main")
    band.next()
    assert band.flights.keys() == {north, south}, "the primary thread is one of them"
    band.interrupt(north)
    band.next()
    assert band.flights.keys() == {south}
    band.run()
    assert result_of(band)["type"] == "error"
    assert "'north' has no result: it was interrupted" in heard(band)
    assert "sand" in heard(band)


def test_archiving_a_steps_thread_fails_the_step() -> None:
    band = started(
        flow(phase("x", step("a", "careful"))),
        careful=[uses(use("bash", command="ls"))],
        lead=[text("ok")],
    )
    band.run()
    band.log.append(thread_ended(band.id_of("careful"), "careful"))
    assert band.log.state.due, "the run goes on without it"
    band.run()
    assert result_of(band)["error"]["type"] == "program_error"
    assert "ended by the client" in heard(band)
    check_runs(list(band.log.shown))


def test_an_archived_session_ends_its_runs_first() -> None:
    band = started(
        flow(phase("x", step("a", "careful")), phase("y", step("b"))),
        careful=[uses(use("bash", command="ls"))],
        planner={"subagents": {**ON, "inline_agents": ON, "predefined_agents": [SCOUT]}},
    )
    band.run()
    band.log.append(*workflow.closing(band.log.state))
    thread = {"session_thread_id": "sthr_main", "agent_name": "lead"}
    band.log.append(
        Draft("session.thread_status_terminated", thread), Draft("session.status_terminated")
    )
    assert result_of(band) == {"type": "stopped"}
    check_runs(list(band.log.shown))


def test_a_run_that_is_not_there_cannot_be_stopped() -> None:
    band = started(use("stop_workflow", workflow_run_id="wrun_x"), use("stop_workflow", "t2"))
    assert [t["is_error"] for t in told(band)] == [True, True]
    assert "open: none" in str(told(band)[0]["content"])


def test_a_thread_that_was_interrupted_before_it_began_is_not_waited_for() -> None:
    band = started(flow(phase("x", step("a"))), lead=[text("over")])
    place = next(r.seq for r in band.log.records if r.type == "internal.crew_result")
    again = taken_over(band, place)
    again.scripts["lead"].extend([text("at work"), text("over")])
    (run,) = again.log.state.runs
    phase_id = {"workflow_run_id": run.id, "workflow_run_phase_id": run.phases[0][0]}
    again.log.append(Draft("workflow_run.phase_started", phase_id))
    begins = ("session.thread_created", "agent.thread_message_received")
    for record in [r for r in band.log.records if r.type in begins][:2]:
        again.log.append(
            Draft(
                record.type,
                record.body,
                record.id,
                thread_id=record.thread_id,
                queued=record.queued,
                private=record.private,
            )
        )
    (thread,) = again.log.state.threads[1:]
    again.interrupt(thread.thread_id)
    again.run()
    assert result_of(again)["error"]["type"] == "program_error"
    check_runs(list(again.log.shown))


@pytest.mark.rule("c15_21")
def test_a_step_that_gives_up_ends_its_thread() -> None:
    band = started(
        flow(phase("x", step("a"))), scout=[away(retryable=False)], lead=[text("a pity")]
    )
    band.run()
    ends = [r for r in band.log.shown if r.type == "session.thread_status_terminated"]
    assert len(ends) == 1
    check_runs(list(band.log.shown))


def test_the_agent_cannot_write_to_a_runs_threads() -> None:
    team = {**ON, "inline_agents": ON, "predefined_agents": [SCOUT]}
    band = started(flow(MAPS), planner={"subagents": team}, lead=[])
    thread = next(iter(band.flights))
    band.scripts["lead"].append(
        uses(use("send_to_agent", "t1", thread_id=thread, message="m"), use("list_agents", "t2"))
    )
    band.log.say("more")
    band.next()
    band.land("sthr_main")
    band.next()
    said = [str(t["content"]) for t in told(band)[-2:]]
    assert "no open thread" in said[0]
    assert thread not in said[1]


def test_an_outcome_is_judged_behind_the_runs() -> None:
    band = Band(
        planner(SCOUT),
        lead=[uses(flow(phase("x", step("a")))), text("wait"), text("all done")],
        scout=[text("found")],
        grader=[uses(use("grade_criteria", grades=[{"criterion": 1, "met": True, "why": "ok"}]))],
    )
    band.log.aim()
    band.run()
    types = band.types()
    start = types.index("span.outcome_evaluation_start")
    assert types.index("workflow_run.status_ended") < start
    assert "found" in str(next(r for name, r in band.requests if name == "grader").messages)


@pytest.mark.timeout(240)
def test_every_prefix_of_a_run_can_be_taken_over() -> None:
    band = started(
        flow(MAPS, JUDGE),
        scout=[text("sea"), text("sand")],
        clerk=[uses(use("weather")), text("nothing")],
        lead=[text("understood")],
    )
    band.run()
    clerk = band.child("clerk").state
    band.answer("user.custom_tool_result", clerk, custom_tool_use_id=band.call(clerk).id)
    band.run()
    whole = band.log.records
    assert result_of(band) == {"type": "completed"}
    for cut in range(1, len(whole) + 1):
        again = taken_over(band, cut)
        for name in ("lead", "scout", "clerk"):
            again.scripts[name].extend([text("again")] * 9)
        again.scripts["lead"].appendleft(text("no"))
        again.run()
        for thread in again.log.state.threads:
            for call in thread.calls:
                again.answer("user.custom_tool_result", thread, custom_tool_use_id=call.id)
        again.run()
        assert all(thread.phase is Phase.IDLE for thread in again.log.state.threads), cut
        assert again.log.state.runs == ()
        check_runs(list(again.log.shown))
        assert not any(isinstance(effect, CallModel) for effect in again.next().values())


def test_folding_from_any_dump_gives_the_same_state() -> None:
    band = started(flow(MAPS, JUDGE), scout=[text("sea")])
    band.land(next(iter(band.flights)))
    band.next()
    band.interrupt()
    for cut in range(len(band.log.records) + 1):
        state = initial("sthr_main", self_hosted=True, crewed=True)
        for record in band.log.records[:cut]:
            state = fold(state, record)
        state = load(state.dump())
        for record in band.log.records[cut:]:
            state = fold(state, record)
        assert state == band.log.state
    assert isinstance(band.log.records[0], Record)
