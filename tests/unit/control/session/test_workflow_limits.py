import pytest

from intramuros.control.model.base import ModelReply, Usage
from intramuros.control.model.cost import UNITS_PER_CENT
from intramuros.control.session import workflow
from intramuros.control.session.budget import shown
from intramuros.control.session.phase import Status
from intramuros.control.session.runs import MAX_RUNS, MAX_STEPS
from intramuros.control.session.turn import Limits, Wait
from intramuros.control.store.records import Draft
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
    phase,
    planner,
    refusals,
    result_of,
    started,
    step,
    told,
)
from tests.fakes.loop import text, use, uses


@pytest.mark.rule("c14_8")
def test_a_plan_that_is_refused_leaves_an_error_without_a_run() -> None:
    band = started(flow(phase("x", step("a", "nobody"))))
    assert kinds(band) == ["error"]
    (refused,) = refusals(band)
    assert refused["error"] == {"type": "program_error", "message": "the plan was refused"}
    assert told(band)[0]["is_error"] is True
    assert "known: 'careful', 'clerk', 'scout'" in str(told(band)[0]["content"])
    large = started(flow(phase("x", *(step(f"s{n}") for n in range(MAX_STEPS + 1)))))
    assert [body["error"]["type"] for body in refusals(large)] == ["thread_limit_error"]
    many = started(*(flow(phase("x", step("s")), model_id=f"t{n}") for n in range(MAX_RUNS + 1)))
    assert [body["error"]["type"] for body in refusals(many)] == ["max_workflow_runs_error"]
    assert len(many.log.state.runs) == MAX_RUNS
    assert "wrun_" in str(told(many)[-1]["content"]), "it names those that could be stopped"


@pytest.mark.rule("c19_6")
def test_steps_wait_for_room_and_a_run_always_has_some() -> None:
    team = {**ON, "inline_agents": ON, "predefined_agents": [SCOUT]}
    sends = [use("send_to_agent", f"s{n}", agent="scout", message="m") for n in range(24)]
    wide = flow(phase("x", *(step(f"s{n}") for n in range(3))))
    band = started(
        *sends, wide, use("send_to_agent", "s25", agent="scout", message="m"),
        flow(phase("y", step("z")), model_id="w2"),
        planner={"subagents": team},
    )  # fmt: skip
    assert len(band.flights) == 25
    assert [t["is_error"] for t in told(band)][24:] == [False, True, True]
    assert [body["error"]["type"] for body in refusals(band)] == ["unknown_error"]
    (run,) = band.log.state.runs
    assert run.begun == 1
    for _ in range(3):
        thread_id = next(t.thread_id for t in band.log.state.threads if t.run_id and t.request)
        band.scripts["scout"].append(text("done"))
        band.land(thread_id)
        band.next()
    assert result_of(band) == {"type": "completed"}
    assert len(band.flights) >= 24


@pytest.mark.rule("c15_28")
def test_a_run_that_runs_too_long_ends_with_an_error() -> None:
    limits = Limits(run_s=60)
    band = started(
        flow(phase("x", step("a", "careful"), step("b"))),
        limits=limits,
        careful=[uses(use("bash", command="ls"))],
        lead=[text("too long")],
    )
    effects = band.next()
    (run,) = band.log.state.runs
    assert run.running_since_us is not None
    until_us = run.running_since_us + 60_000_000
    assert effects[run.id] == Wait(until_us), "somebody looks again at that time"
    band.log.now_us = until_us - 2
    band.next()
    assert band.log.state.runs == (run,)
    band.log.now_us = until_us
    band.next()
    assert result_of(band)["error"]["type"] == "timeout_error"
    assert not any(t.run_id for t in band.log.state.threads)
    check_runs(list(band.log.shown))
    band.run()
    assert "reached its time limit" in heard(band)


def test_waiting_for_a_client_takes_no_time_of_a_run() -> None:
    band = started(
        flow(phase("x", step("a", "clerk"))),
        limits=Limits(run_s=60),
        clerk=[uses(use("weather")), text("sunny")],
        lead=[text("good")],
    )
    band.run()
    effects = band.next()
    assert not any(key.startswith("wrun_") for key in effects)
    band.log.now_us += 10**12
    clerk = band.child("clerk").state
    band.answer("user.custom_tool_result", clerk, custom_tool_use_id=band.call(clerk).id)
    band.run()
    assert result_of(band) == {"type": "completed"}


@pytest.mark.rule("c15_28", "c12_6")
def test_at_the_budgets_cap_a_run_starts_idle_and_goes_on_later() -> None:
    dear = ModelReply([flow(MAPS)], "tool_use", Usage(1, 1), 100 * UNITS_PER_CENT)
    band = Band(planner(SCOUT), lead=[dear])
    band.log.append(Draft("internal.budget", {"budget": shown(50)}))
    band.log.say("go")
    band.run()
    assert kinds(band) == ["created", "status_idle"]
    assert band.log.state.status is Status.IDLE
    assert not band.log.state.due
    band.log.append(Draft("session.updated", {"budget": None}))
    assert band.log.state.due
    band.scripts["scout"].extend([text("sea"), text("sand")])
    band.scripts["lead"].extend([text("at work"), text("good")])
    band.run()
    assert kinds(band)[:4] == ["created", "status_idle", "status_running", "phase_started"]
    assert result_of(band) == {"type": "completed"}


def test_many_calls_in_one_reply_are_all_carried_out() -> None:
    team = {**ON, "inline_agents": ON, "predefined_agents": [SCOUT]}
    calls = [use("list_agents", f"t{n}") for n in range(100)]
    band = started(*calls, planner={"subagents": team})
    assert len(told(band)) == 100


def test_long_results_are_cut() -> None:
    size = workflow.MAX_RESULT_CHARS
    band = started(
        flow(MAPS, JUDGE),
        scout=[text("n" * size), text("s")],
        clerk=[text("done")],
        lead=[text("ok")],
    )
    band.run()
    asked = next(request for name, request in band.requests if name == "clerk")
    said = str(asked.messages)
    assert f"[{size // 2} characters left out]" in said
    assert len(said) < size
