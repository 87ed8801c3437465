"""Outcomes in the loop: a pure one, step by step, with scripted answers."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from intramuros.control.model.base import ModelError, ModelReply
from intramuros.control.model.cost import UNITS_PER_CENT
from intramuros.control.session import budget, evaluation
from intramuros.control.session.evaluation import MAX_FAULTS, AskGrader
from intramuros.control.session.phase import Phase
from intramuros.control.session.turn import CallModel, Wait
from intramuros.control.store.records import Draft
from intramuros.protocol.resources.budgets import BudgetLimit
from tests.fakes.band import Band, definition, delegate, lead
from tests.fakes.loop import (
    CUSTOM,
    END,
    OPEN,
    REST,
    START,
    Loop,
    agent,
    away,
    last,
    open_ids,
    stop_reason,
    text,
    use,
    uses,
    verdict,
)

SPAN = "span.outcome_evaluation"
REPLY = [START, "agent.message", END]
EVALUATED = [f"{SPAN}_start", f"{SPAN}_ongoing", f"{SPAN}_end"]
TWO = "- It works.\n- It is documented."


def pursuing(
    model: Sequence[ModelReply | ModelError],
    grader: Sequence[ModelReply | ModelError],
    rubric: str = TWO,
    iterations: int = 3,
    **more: Any,
) -> Loop:
    loop = Loop(agent(CUSTOM), model=model, grader=grader, **more)
    loop.log.aim(rubric, iterations)
    return loop


def ends(loop: Loop) -> list[Any]:
    return [record.body for record in loop.log.shown if record.type == f"{SPAN}_end"]


def results(loop: Loop) -> list[str]:
    return [body["result"] for body in ends(loop)]


def heard(loop: Loop, request: int = -1) -> str:
    return json.dumps(loop.requests[request].messages)


@pytest.mark.rule("c15_27", "c20_5")
def test_c13_19_an_outcome_starts_work_that_is_evaluated_and_ends_idle() -> None:
    loop = pursuing([text("done")], [verdict(True, True)])
    loop.run()
    assert loop.log.types == ["user.define_outcome", *OPEN, *REPLY, *EVALUATED, *REST]
    assert "Build it." in heard(loop)
    assert "It is documented." in heard(loop)
    (end,) = ends(loop)
    start = last(loop, f"{SPAN}_start")
    starts = [r for r in loop.log.shown if r.type == f"{SPAN}_start"]
    assert end["outcome_evaluation_start_id"] == starts[0].id
    assert (end["outcome_id"], end["iteration"]) == (start["outcome_id"], start["iteration"])
    assert end["result"] == "satisfied"
    assert end["explanation"].startswith("2 of 2 criteria met.")
    assert end["usage"] == {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    assert loop.log.state.usage.input_tokens == 20, "the grader's tokens count as the session's"
    assert stop_reason(loop) == {"type": "end_turn"}
    assert loop.log.state.aims == ()


def test_c20_4_a_revision_is_asked_for_with_the_grounds() -> None:
    loop = pursuing([text("one"), text("two")], [verdict(True, False), verdict(True, True)])
    loop.run()
    assert loop.log.types == [
        "user.define_outcome",
        *OPEN,
        *REPLY,
        *EVALUATED,
        *REPLY,
        *EVALUATED,
        *REST,
    ]
    assert results(loop) == ["needs_revision", "satisfied"]
    assert [body["iteration"] for body in ends(loop)] == [0, 1]
    assert "NOT MET: It is documented. \\u2014 reason 2" in heard(loop)
    assert "reason 2" not in str(loop.graded[1].messages), "each evaluation starts afresh"


def test_c20_5_after_the_last_evaluation_one_turn_follows_and_no_evaluation() -> None:
    loop = pursuing([text("1"), text("2"), text("bye")], [verdict(False, True)] * 2, iterations=2)
    loop.run()
    assert results(loop) == ["needs_revision", "max_iterations_reached"]
    assert loop.log.types[-6:] == [*REPLY, *REST]
    assert "That was the last evaluation" in heard(loop)
    assert stop_reason(loop) == {"type": "end_turn"}
    assert loop.log.state.aims == ()


def test_a_rubric_that_does_not_apply_fails_the_outcome() -> None:
    answer = uses(use("grade_criteria", grades=[], applies=False, why_not="There is no sheet."))
    loop = pursuing([text("x")], [answer])
    loop.run()
    assert results(loop) == ["failed"]
    assert ends(loop)[0]["explanation"] == "There is no sheet."
    assert stop_reason(loop) == {"type": "end_turn"}


def test_useless_answers_are_asked_for_again_and_fail_at_last() -> None:
    rude = text("SYSTEM: satisfied")
    loop = pursuing([text("x")], [rude, verdict(True, True)])
    loop.run()
    assert results(loop) == ["satisfied"]
    assert "does not call grade_criteria" in str(loop.graded[1].messages)
    assert ends(loop)[0]["usage"]["input_tokens"] == 20, "all requests of the evaluation"
    loop = pursuing([text("x")], [rude] * MAX_FAULTS)
    loop.run()
    assert results(loop) == ["failed"]
    assert f"no usable answer in {MAX_FAULTS} attempts" in ends(loop)[0]["explanation"]
    assert stop_reason(loop) == {"type": "end_turn"}


def test_many_criteria_are_judged_some_at_a_time() -> None:
    rubric = "\n".join(f"- c{n}" for n in range(25))
    grader = [verdict(*[True] * 20), verdict(*[False] * 5, first=21)]
    loop = pursuing([text("x"), text("y")], grader, rubric, iterations=1)
    loop.run()
    assert results(loop) == ["max_iterations_reached"]
    assert ends(loop)[0]["explanation"].startswith("20 of 25 criteria met.\n- NOT MET: c20")
    assert loop.log.types.count(f"{SPAN}_ongoing") == 2


def test_c20_3_the_next_outcome_follows_the_last_evaluation_of_the_one_before() -> None:
    loop = pursuing([text("one"), text("two")], [verdict(True, True)] * 2)
    second = loop.log.aim(TWO)
    assert [aim.begun for aim in loop.log.state.aims] == [False, False]
    effect = loop.next()
    assert [aim.begun for aim in loop.log.state.aims] == [True, False]
    loop.perform(effect)
    loop.run()
    assert results(loop) == ["satisfied", "satisfied"]
    assert ends(loop)[1]["outcome_id"] == second
    assert loop.log.types.count("session.status_running") == 2
    assert loop.log.types.count("session.status_idle") == 2
    work = json.loads(loop.graded[1].messages[0]["content"][0]["text"])["work"]  # type: ignore[index]
    assert work == [{"agent_said": "two"}]


def test_a_message_directs_the_work_before_it_is_judged() -> None:
    loop = pursuing([text("one"), text("two"), text("three")], [verdict(True, False)])
    effect = loop.next()
    loop.log.say("mind the margins")
    loop.perform(effect)
    effect = loop.next()
    assert isinstance(effect, CallModel)
    loop.perform(effect)
    assert "mind the margins" in heard(loop)
    effect = loop.next()
    assert isinstance(effect, AskGrader)
    loop.log.say("and the fonts")
    loop.perform(effect)
    effect = loop.next()
    loop.perform(effect)
    assert "and the fonts" in heard(loop)
    assert "NOT MET" in heard(loop)
    assert not loop.log.state.queued


@pytest.mark.parametrize("begun", ["waiting", "working", "evaluating", "asking"])
def test_c20_6_an_interrupt_ends_the_outcome(begun: str) -> None:
    loop = pursuing([uses(use("weather")), text("done")], [verdict(True, True)])
    if begun != "waiting":
        loop.run()
    if begun in ("evaluating", "asking"):
        loop.log.send("user.custom_tool_result", custom_tool_use_id=open_ids(loop)[0])
        loop.perform(loop.next())
        assert isinstance(loop.next(), AskGrader)
    if begun == "evaluating":
        loop.crash()
    later = None
    loop.log.send("user.interrupt")
    later = loop.log.aim(TWO)
    mark = loop.mark
    loop.model.clear()
    loop.model.append(text("later"))
    loop.run()
    body = ends(loop)[0]
    assert body["result"] == "interrupted"
    starts = [r.id for r in loop.log.shown if r.type == f"{SPAN}_start"]
    empty = begun in ("waiting", "working")
    assert body["outcome_evaluation_start_id"] == ("" if empty else starts[0])
    assert results(loop) == ["interrupted", "satisfied"], "what was defined behind it goes on"
    assert ends(loop)[1]["outcome_id"] == later
    since = loop.since(mark)
    if begun == "waiting":  # its turn begins and ends here
        assert since[:2] == OPEN
        since = since[2:]
    assert since[0] == "user.interrupt"
    assert since.index(f"{SPAN}_end") < since.index("session.status_idle")
    assert since.index("session.status_idle") < since.index("session.status_running")


def test_an_interrupt_of_a_given_up_session_ends_its_outcome_too() -> None:
    loop = pursuing([away(retryable=False)], [])
    loop.run()
    assert stop_reason(loop)["type"] == "retries_exhausted"
    assert loop.log.state.aim is not None
    mark = loop.mark
    loop.log.send("user.interrupt")
    loop.run()
    assert loop.since(mark) == ["user.interrupt", f"{SPAN}_end"]
    assert isinstance(loop.next(), Wait)


def test_a_given_up_turn_goes_on_with_its_outcome() -> None:
    loop = pursuing([away(retryable=False), text("done")], [verdict(True, True)])
    loop.run()
    loop.log.say("try again")
    loop.run()
    assert results(loop) == ["satisfied"]


def test_a_refusal_is_not_evaluated() -> None:
    loop = pursuing([ModelReply([], "refusal")], [])
    loop.run()
    assert stop_reason(loop)["type"] == "refusal"
    assert not ends(loop)


def test_a_grader_that_is_away_is_asked_later() -> None:
    loop = pursuing([text("x")], [away(), verdict(True, True)])
    wait = loop.run()
    assert loop.log.state.phase is Phase.RESCHEDULING
    assert wait.until_us is not None
    assert loop.log.types[-3:] == [
        "session.error",
        "session.thread_status_rescheduled",
        "session.status_rescheduled",
    ]
    loop.log.now_us = wait.until_us
    loop.run()
    assert results(loop) == ["satisfied"]
    assert loop.log.types.count(f"{SPAN}_start") == 1


def test_a_grader_that_stays_away_fails_the_outcome() -> None:
    loop = pursuing([text("x")], [away(retryable=False)])
    loop.run()
    assert results(loop) == ["failed"]
    assert "could not be asked" in ends(loop)[0]["explanation"]
    assert stop_reason(loop)["type"] == "retries_exhausted"
    loop = pursuing([text("x")], [away()] * 99)
    for _ in range(30):
        wait = loop.run()
        if wait.until_us is None:
            break
        loop.log.now_us = wait.until_us
    assert results(loop) == ["failed"]
    assert len(loop.graded) == loop.limits.failures + 1


def test_a_request_that_nobody_waits_for_is_made_again_but_not_for_ever() -> None:
    loop = pursuing([text("x")], [verdict(True, True)])
    loop.perform(loop.next())
    for _ in range(MAX_FAULTS - 1):
        assert isinstance(loop.next(), AskGrader)
        loop.crash()
    assert isinstance(loop.next(), AskGrader)
    loop.crash()
    assert isinstance(loop.next(), Wait)
    assert results(loop) == ["failed"]
    assert evaluation.LOST in ends(loop)[0]["explanation"]
    assert not loop.graded


def test_signs_of_life_change_nothing() -> None:
    loop = pursuing([text("x")], [verdict(True, True)])
    loop.perform(loop.next())
    effect = loop.next()
    assert isinstance(effect, AskGrader)
    before = loop.log.state.aims
    loop.log.append(*evaluation.ongoing(effect.aim))
    assert loop.log.state.aims == before
    loop.perform(effect)
    loop.run()
    assert results(loop) == ["satisfied"]
    assert loop.log.types.count(f"{SPAN}_ongoing") == 2


def costing(reply: ModelReply, cents: int) -> ModelReply:
    return ModelReply(reply.content, reply.stop_reason, reply.usage, cents * UNITS_PER_CENT)


def limit(cents: int) -> BudgetLimit:
    amount = {"amount": str(cents), "currency": "USD"}
    return BudgetLimit.model_validate({"type": "limit", "max_list_cost": amount})


def test_the_grader_is_paid_for_and_stops_at_the_cap() -> None:
    rubric = "\n".join(f"- c{n}" for n in range(25))
    grader = [costing(verdict(*[True] * 20), 4), costing(verdict(*[True] * 5, first=21), 1)]
    loop = Loop(agent(), model=[costing(text("x"), 6)], grader=grader)
    loop.log.append(budget.opening(limit(10)))
    loop.log.aim(rubric)
    loop.run()
    assert stop_reason(loop) == {"type": "budget_reached"}
    assert (loop.log.state.phase, len(loop.graded)) == (Phase.PAUSED, 1)
    assert last(loop, "session.thread_status_idle")["stop_reason"] == {"type": "budget_reached"}
    loop.log.append(Draft("session.updated", {"budget": budget.shown(20)}))
    loop.run()
    assert results(loop) == ["satisfied"]
    assert len(loop.requests) == 1, "the agent is not asked again"
    assert last(loop, "session.usage")["usage"]["list_cost"]["amount"] == "11"


def test_the_grader_is_counted_under_the_model_that_answered() -> None:
    answer = replace(verdict(True, True), model="another")
    loop = pursuing([text("done")], [answer])
    loop.run()
    graded = [r for r in loop.log.records if r.type == "internal.outcome_graded"]
    assert [(r.private or {}).get("model") for r in graded] == ["another"]


def test_at_the_cap_neither_agent_nor_grader_begins() -> None:
    loop = Loop(agent(), model=[costing(text("x"), 10)], grader=[])
    loop.log.append(budget.opening(limit(10)))
    loop.log.aim()
    loop.run()
    assert loop.log.types[-4:] == [END, *REST]
    assert loop.log.state.phase is Phase.PAUSED


def team(**scripts: Any) -> Band:
    """A session whose coordinator works for an outcome, delegates, and ends its turn."""
    leading = [delegate("scout"), text("waiting"), *scripts.pop("lead", [])]
    band = Band(lead(definition("scout")), lead=leading, **scripts)
    band.log.aim(TWO)
    return band


def test_work_that_was_delegated_is_waited_for_before_it_is_judged() -> None:
    band = team(lead=[text("all is known")], scout=[text("north")], grader=[verdict(True, True)])
    band.next()
    band.land("sthr_main")
    band.next()
    band.land("sthr_main")
    band.next()
    assert f"{SPAN}_start" not in band.types(), "the scout is still at work"
    assert "sthr_main" not in band.flights
    band.run()
    types = band.types()
    assert types.index(f"{SPAN}_start") > types.index("agent.thread_message_received")
    assert types.count(f"{SPAN}_end") == types.count("session.status_idle") == 1
    (asked,) = [request for name, request in band.requests if name == "grader"]
    work = json.loads(asked.messages[0]["content"][0]["text"])["work"]  # type: ignore[index]
    assert {"another_agent_said": "north"} in work
    assert work[-1] == {"agent_said": "all is known"}
    assert band.log.state.aims == ()
    assert band.log.state.usage.input_tokens == sum(
        record.body["model_usage"]["input_tokens"]  # type: ignore[index]
        for record in band.log.records
        if record.type == END
    ) + sum(ends["usage"]["input_tokens"] for ends in spans(band))


def spans(band: Band) -> list[Any]:
    return [record.body for record in band.log.shown if record.type == f"{SPAN}_end"]


def test_an_interrupt_of_the_session_ends_its_outcome_whoever_works() -> None:
    band = team(scout=[text("north")])
    band.next()
    band.land("sthr_main")
    band.next()
    band.land("sthr_main")
    band.next()
    band.interrupt()
    band.run()
    assert [body["result"] for body in spans(band)] == ["interrupted"]
    assert stop_of(band) == {"type": "end_turn"}


def stop_of(band: Band) -> Any:
    idles = [r for r in band.shown() if r.type == "session.status_idle"]
    return idles[-1].body["stop_reason"]


def test_a_team_that_was_killed_in_mid_evaluation_brings_it_to_its_end() -> None:
    band = team(lead=[text("done")], scout=[text("north")], grader=[verdict(True, True)])
    while not any(isinstance(effect, AskGrader) for effect in band.flights.values()):
        band.next()
        if any(isinstance(effect, AskGrader) for effect in band.flights.values()):
            break
        band.land(next(iter(band.flights)))
    band.crash()
    band.run()
    assert [body["result"] for body in spans(band)] == ["satisfied"]
    assert band.log.state.aims == ()
