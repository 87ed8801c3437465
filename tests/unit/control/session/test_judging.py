"""Calls under the ``auto`` policy in the loop: a pure one, step by step, with scripted judges."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from intramuros.control.model.base import Failure, ModelError, ModelReply, Usage
from intramuros.control.model.cost import UNITS_PER_CENT
from intramuros.control.session import judging, opinion
from intramuros.control.session.budget import shown
from intramuros.control.session.fold_thread import IllegalRecord
from intramuros.control.session.judging import AskJudge, Bench
from intramuros.control.session.opinion import AGAIN, HELD, JUDGED
from intramuros.control.session.phase import Phase
from intramuros.control.session.state import load
from intramuros.control.session.turn import CallModel, Limits, Wait
from intramuros.control.store.records import Draft
from tests.fakes.band import Band, definition, delegate, lead
from tests.fakes.loop import (
    ALLOW,
    ASK,
    AUTO,
    END,
    OPEN,
    REST,
    ROWS,
    START,
    Loop,
    agent,
    away,
    last,
    mcp_toolset,
    open_ids,
    stop_reason,
    text,
    toolset,
    use,
    uses,
)
from tests.fakes.loop import opinion as says

Judge = Sequence[ModelReply | ModelError | None]
BROKE = ModelError(Failure.BILLING, "no credit", retryable=False)


def loop_of(*model: ModelReply, judge: Judge = (), **more: Any) -> Loop:
    declared = more.pop("declared", agent(toolset(AUTO)))
    loop = Loop(declared, model=model, judge=judge, **more)
    loop.log.say("tidy up")
    return loop


def until_judged(loop: Loop) -> AskJudge:
    while not isinstance(effect := loop.next(), AskJudge):
        assert not isinstance(effect, Wait)
        loop.perform(effect)
    return effect


def verdicts(loop: Loop) -> list[tuple[Any, Any]]:
    return [
        (r.body["evaluated_permission"], r.body.get("evaluation"))
        for r in loop.log.shown
        if r.type in ("agent.tool_use", "agent.mcp_tool_use")
    ]


def nested(type: str, code: str | None = None) -> dict[str, object]:
    more = {"reason_code": code} if code else {}
    return {"type": "auto", "evaluated_permission": {"type": type, **more}}


@pytest.mark.rule("c6_8", "c6_10", "c6_11", "R115")
def test_a_safe_call_is_allowed_and_waits_for_its_worker() -> None:
    loop = loop_of(uses(use("bash", command="ls")), text("done"), judge=[says("allow")])
    loop.run()
    assert loop.log.types == [*OPEN, "user.message", START, "agent.tool_use", END, *REST]
    assert verdicts(loop) == [("allow", nested("allow"))]
    (call,) = open_ids(loop)
    loop.log.send("user.tool_result", tool_use_id=call)
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}
    (request,) = loop.judged
    assert request.model == "some-model"
    assert "tidy up" in str(request.messages)
    assert loop.log.state.usage.input_tokens == 30, "the judge's tokens count as the session's"


@pytest.mark.rule("c6_8", "c6_14", "R121")
@pytest.mark.parametrize(
    ("self_hosted", "declared", "name", "result"),
    [
        (True, toolset(AUTO), "bash", "user.tool_result"),
        (False, toolset(AUTO), "bash", "agent.tool_result"),
        (True, mcp_toolset(AUTO), "mcp__db__insert", "agent.mcp_tool_result"),
    ],
)
def test_a_high_risk_call_never_runs_and_is_answered_by_the_server(
    self_hosted: bool, declared: Any, name: str, result: str
) -> None:
    loop = loop_of(
        uses(use(name)),
        text("I see"),
        judge=[says("deny")],
        declared=agent(declared),
        self_hosted=self_hosted,
    )
    loop.run()
    assert verdicts(loop) == [("deny", nested("deny", "high_risk"))]
    assert loop.performed == []
    answer = last(loop, result)
    assert answer["is_error"] is True
    (block,) = loop.requests[1].messages[-1]["content"]
    assert block["is_error"] is True
    assert block["content"][0]["text"] == judging.REFUSED
    assert stop_reason(loop) == {"type": "end_turn"}, "nobody is asked"


@pytest.mark.rule("c6_8", "c6_12", "R116", "R119")
@pytest.mark.parametrize(
    "answer",
    [
        says("cannot_tell"),
        says("maybe"),
        text("allow"),
        ModelReply([], "refusal"),
        away(retryable=False),
        away(),
        None,  # out of time
    ],
)
def test_no_judgement_asks_the_client(answer: Any) -> None:
    loop = loop_of(uses(use("bash")), text("ok"), judge=[answer])
    loop.run()
    assert verdicts(loop) == [("ask", nested("ask", "indeterminate"))]
    assert stop_reason(loop) == {"type": "requires_action", "event_ids": open_ids(loop)}
    (call,) = open_ids(loop)
    loop.log.send("user.tool_confirmation", tool_use_id=call, result="allow")
    loop.run()
    loop.log.send("user.tool_result", tool_use_id=call)
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}


@pytest.mark.rule("c6_8", "c6_12", "R116", "R119")
def test_without_credit_a_call_is_denied() -> None:
    loop = loop_of(uses(use("bash")), text("ok"), judge=[BROKE])
    loop.run()
    assert verdicts(loop) == [("deny", nested("deny", "indeterminate"))]
    assert last(loop, "user.tool_result")["content"][0]["text"] == judging.UNPAID


@pytest.mark.rule("R116")
def test_at_the_budgets_cap_nobody_is_asked_and_the_call_is_denied() -> None:
    reply = ModelReply([use("bash")], "tool_use", Usage(1, 1), 5 * UNITS_PER_CENT)
    loop = Loop(agent(toolset(AUTO)), model=[reply])
    loop.log.append(Draft("internal.budget", {"budget": shown(5)}))
    loop.log.say()
    loop.run()
    assert loop.judged == [], "the reply that made the call has used the budget up"
    assert verdicts(loop) == [("deny", nested("deny", "indeterminate"))]
    assert stop_reason(loop)["type"] == "budget_reached"


def test_calls_of_one_reply_are_asked_about_together_and_recorded_in_order() -> None:
    config = {"enabled": True, "permission_policy": ALLOW}
    declared = agent(toolset(AUTO, read=config), mcp_toolset(AUTO))
    calls = [
        use("bash", "toolu_1", command="a"),
        use("read", "toolu_2"),
        use("mcp__db__insert", "toolu_3", table="t"),
        use("nothing", "toolu_4"),
    ]
    loop = loop_of(
        uses({"type": "text", "text": "So:"}, *calls),
        judge=[says("deny"), says("allow")],
        mcp=[ROWS],
        declared=declared,
    )
    effect = until_judged(loop)
    assert len(effect.asked) == 2
    assert loop.log.types[-1] == "agent.message", "what was said is shown before"
    assert loop.log.state.calls == (), "no call can begin"
    assert "other_calls" in str(effect.asked[0].request.messages)
    loop.perform(effect)
    loop.run()
    uses_ = [r for r in loop.log.shown if r.type in ("agent.tool_use", "agent.mcp_tool_use")]
    names = [r.body["name"] for r in uses_]
    assert names == ["bash", "read", "insert", "nothing"]
    assert [v for v, _ in verdicts(loop)] == ["deny", "allow", "allow", "deny"]
    assert "evaluation" not in uses_[3].body, "no policy applied (c6_13)"
    assert loop.performed == [uses_[2].id]
    end = next(r for r in loop.log.shown if r.type == END)
    assert end.seq > uses_[3].seq
    assert "untrusted_description" in str(effect.asked[1].request.messages)


def test_a_process_that_takes_over_judges_what_is_missing_and_nothing_twice() -> None:
    calls = [use("bash", "toolu_1"), use("read", "toolu_2")]
    loop = loop_of(uses(*calls), judge=[says("allow"), says("deny")])
    effect = until_judged(loop)
    first = judging.answered(loop.view, effect.asked[0], says("allow"))
    loop.log.append(*first)
    assert load(loop.log.state.dump()) == loop.log.state
    loop.crash()
    loop.judge.popleft()
    again = until_judged(loop)
    assert [asked.use_id for asked in again.asked] == [effect.asked[1].use_id]
    assert judging.answered(loop.view, effect.asked[0], says("deny")) == [], "it is known already"
    loop.perform(again)
    loop.run()
    assert [v for v, _ in verdicts(loop)] == ["allow", "deny"]
    assert loop.log.types.count(START) == 1, "the reply was not asked for again"
    assert loop.log.state.failures == 0


def test_a_judgement_that_kills_processes_is_given_up() -> None:
    loop = loop_of(uses(use("bash")))
    for _ in range(judging.MAX_LOST):
        until_judged(loop)
        loop.crash()
    assert isinstance(loop.run(), Wait)
    assert verdicts(loop) == [("ask", nested("ask", "indeterminate"))]
    assert [r.type for r in loop.log.records].count(AGAIN) == judging.MAX_LOST


def test_an_interrupt_ends_the_judging_and_closes_the_calls() -> None:
    loop = loop_of(uses(use("bash", "toolu_1"), use("read", "toolu_2")))
    effect = until_judged(loop)
    loop.log.append(*judging.answered(loop.view, effect.asked[0], says("allow")))
    loop.log.send("user.interrupt")
    assert loop.log.state.due
    loop.run()
    assert [v for v, _ in verdicts(loop)] == ["allow", "ask"]
    assert loop.log.state.calls == ()
    assert loop.log.types[-6:] == ["user.interrupt", *["user.tool_result"] * 2, *REST]
    assert stop_reason(loop) == {"type": "end_turn"}
    late = judging.answered(loop.view, effect.asked[1], says("allow"))
    assert late == [], "an answer that comes later changes nothing"
    loop.model.append(text("yes?"))
    loop.log.say("why?")
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}


def test_a_message_sent_meanwhile_is_shown_to_the_judge_and_heard_later() -> None:
    loop = loop_of(uses(use("bash")), text("stopped"), text("yes"), judge=[says("deny")])
    while not isinstance(effect := loop.next(), CallModel):
        loop.perform(effect)
    loop.log.say("delete nothing!")
    loop.perform(effect)
    loop.run()
    assert "delete nothing!" in str(loop.judged[0].messages)
    assert stop_reason(loop) == {"type": "end_turn"}


def test_an_input_too_large_to_show_is_asked_about() -> None:
    huge = use("bash", "toolu_1", command="x" * (opinion.MAX_INPUT_CHARS + 1))
    loop = loop_of(uses(huge, use("read", "toolu_2")), judge=[says("allow")])
    loop.run()
    assert [v for v, _ in verdicts(loop)] == ["ask", "allow"]


def test_other_policies_know_no_judge() -> None:
    for policy in (ALLOW, ASK):
        loop = loop_of(uses(use("bash")), declared=agent(toolset(policy)))
        loop.run()
        assert HELD not in [r.type for r in loop.log.records]


def test_the_operators_judge_judges_unless_its_price_must_be_known() -> None:
    limits = Limits(bench=Bench("judge-1", priced=False))
    loop = loop_of(uses(use("bash")), judge=[says("allow")], limits=limits)
    loop.run()
    assert loop.judged[0].model == "judge-1"
    marks = [r for r in loop.log.records if r.type == JUDGED]
    assert (marks[0].private or {})["model"] == "judge-1"
    reply = replace(uses(use("bash")), cost=1)
    loop = Loop(agent(toolset(AUTO)), model=[reply], judge=[says("allow")], limits=limits)
    loop.log.append(Draft("internal.budget", {"budget": shown(5_000)}))
    loop.log.say()
    loop.run()
    assert loop.judged[0].model == "some-model"


def test_the_log_refuses_what_nobody_waits_for() -> None:
    loop = loop_of(uses(use("bash")), judge=[says("allow")])
    until_judged(loop)
    held = next(r for r in loop.log.records if r.type == HELD)
    mark = {"reply_id": "sevt_other", "epoch": 2}
    for draft in (
        Draft(HELD, {"epoch": 1}),
        Draft(AGAIN, mark),
        Draft(JUDGED, {**mark, "usage": {}}),
        Draft("user.message", {"content": []}),
    ):
        with pytest.raises(IllegalRecord):
            loop.log.append(draft)
    loop.run()
    with pytest.raises(IllegalRecord):
        loop.log.append(Draft(AGAIN, {"reply_id": held.id, "epoch": 2}))


def test_the_calls_of_a_child_thread_are_judged_by_what_people_said() -> None:
    worker = definition("helper", toolset(AUTO))
    band = Band(
        lead(worker),
        lead=[delegate("helper"), text("waiting"), text("fine")],
        helper=[uses(use("bash", command="ls")), text("done")],
        judge=[says("deny"), says("allow")],
    )
    band.log.say("Look, but delete nothing.")
    band.run()
    (asked,) = [request for name, request in band.requests if name == "judge"]
    shown_ = str(asked.messages)
    assert "delete nothing" in shown_
    assert "untrusted_agent_said" in shown_, "the order of another agent is no wish"
    child = [r for r in band.log.shown if r.type == "agent.tool_use"]
    assert [r.body["evaluated_permission"] for r in child] == ["deny"]
    assert not child[0].shared, "nobody else has anything to do with it"
    assert band.log.state.phase is Phase.IDLE
