"""Budgets in the loop: a pure one, step by step, with scripted answers."""

from collections.abc import Sequence
from typing import Any

import pytest

from intramuros.control.model.base import ModelError, ModelReply, Usage
from intramuros.control.model.catalogue import shipped_catalogue
from intramuros.control.model.cost import UNITS_PER_CENT
from intramuros.control.session import budget
from intramuros.control.session.phase import Phase, Status
from intramuros.control.session.turn import CallModel, MakeCalls, Wait
from intramuros.control.store.records import Draft
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.budgets import BudgetLimit
from tests.fakes.loop import (
    ASK,
    CUSTOM,
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

CENT = UNITS_PER_CENT


def limit(cents: int) -> BudgetLimit:
    amount = {"amount": str(cents), "currency": "USD"}
    return BudgetLimit.model_validate({"type": "limit", "max_list_cost": amount})


def costing(reply: ModelReply, cents: int) -> ModelReply:
    return ModelReply(reply.content, reply.stop_reason, reply.usage, cents * CENT)


def capped(
    declared: Any, model: Sequence[ModelReply | ModelError], cents: int = 10, **more: Any
) -> Loop:
    loop = Loop(declared, model=model, **more)
    loop.log.append(budget.opening(limit(cents)))
    loop.log.say()
    return loop


def raised(loop: Loop, cents: int | None) -> None:
    wanted = None if cents is None else limit(cents)
    changed, shown = budget.change(loop.log.state, wanted, loop.log.now_us)
    assert changed
    loop.log.append(Draft("session.updated", {"budget": shown}))


def thread_stop(loop: Loop) -> str:
    return last(loop, "session.thread_status_idle")["stop_reason"]["type"]


@pytest.mark.rule("R283", "R284", "R286", "c15_23")
def test_c12_6_c12_8_the_request_that_crosses_the_cap_is_the_last() -> None:
    loop = capped(agent(toolset()), [costing(uses(use("bash")), 11), text("done")])
    loop.run()
    assert stop_reason(loop)["type"] == "requires_action", "an open call goes first (R131)"
    assert (thread_stop(loop), loop.log.state.capped()) == ("requires_action", True)
    (call_id,) = open_ids(loop)
    mark = loop.mark
    loop.log.send("user.tool_result", tool_use_id=call_id)
    loop.run()
    assert loop.since(mark) == ["user.tool_result", *REST]
    assert (thread_stop(loop), stop_reason(loop)) == ("budget_reached", {"type": "budget_reached"})
    assert (loop.log.state.phase, loop.log.state.status) == (Phase.PAUSED, Status.IDLE)
    assert len(loop.requests) == 1
    usage = last(loop, "session.usage")
    assert usage["usage"]["list_cost"]["amount"] == "11"
    assert usage["budget"] == budget.shown(10)


@pytest.mark.rule("R131")
def test_c10_26_a_pending_answer_outranks_the_cap() -> None:
    loop = capped(agent(toolset(ASK)), [costing(uses(use("bash")), 10)])
    loop.run()
    assert stop_reason(loop) == {"type": "requires_action", "event_ids": open_ids(loop)}
    (call_id,) = open_ids(loop)
    loop.log.send("user.tool_confirmation", tool_use_id=call_id, result="allow")
    loop.run()
    assert stop_reason(loop) == {"type": "requires_action", "event_ids": [call_id]}


def test_c15_24_a_turn_that_ends_at_the_cap_has_ended() -> None:
    loop = capped(agent(), [costing(text("done"), 10), costing(text("again"), 1)])
    loop.run()
    assert (thread_stop(loop), stop_reason(loop)) == ("end_turn", {"type": "budget_reached"})
    assert loop.log.state.phase is Phase.IDLE
    mark = loop.mark
    raised(loop, 20)
    assert not loop.log.state.due, "nothing waits, so nothing goes on"
    loop.run()
    assert loop.since(mark) == ["session.updated"]
    loop.log.say()
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}
    assert loop.log.state.turn == 2


@pytest.mark.parametrize("cents", [20, None])
@pytest.mark.rule("R282")
def test_c12_10_a_new_cap_resumes_what_was_paused_and_nothing_else_does(cents: int | None) -> None:
    loop = capped(agent(CUSTOM), [costing(uses(use("weather")), 10), costing(text("fine"), 1)])
    loop.run()
    loop.log.send("user.custom_tool_result", custom_tool_use_id=open_ids(loop)[0])
    loop.run()
    assert loop.log.state.phase is Phase.PAUSED
    assert isinstance(loop.next(), Wait)
    mark = loop.mark
    raised(loop, cents)
    assert loop.log.state.due
    loop.run()
    assert loop.since(mark) == ["session.updated", *OPEN, START, "agent.message", END, *REST]
    assert stop_reason(loop) == {"type": "end_turn"}
    assert loop.log.state.turn == 1, "it is still the same turn"
    assert last(loop, "session.usage")["budget"] == budget.shown(cents)


def test_a_message_that_waited_when_the_cap_was_reached_is_heard_after_it() -> None:
    loop = capped(agent(), [costing(text("one"), 10), costing(text("two"), 1)])
    effect = loop.next()
    loop.log.say("more")
    loop.perform(effect)
    loop.run()
    assert (stop_reason(loop)["type"], len(loop.requests)) == ("budget_reached", 1)
    assert not loop.log.state.due
    raised(loop, 12)
    assert loop.log.state.due
    loop.run()
    assert (stop_reason(loop)["type"], len(loop.requests)) == ("end_turn", 2)


def test_calls_that_are_allowed_are_settled_at_the_cap() -> None:
    declared = agent(mcp_toolset(ASK))
    loop = capped(declared, [costing(uses(use("mcp__db__query")), 10)], mcp=[ROWS])
    loop.run()
    assert stop_reason(loop)["type"] == "requires_action"
    loop.log.send("user.tool_confirmation", tool_use_id=open_ids(loop)[0], result="allow")
    effect = loop.next()
    assert isinstance(effect, MakeCalls)
    loop.perform(effect)
    loop.run()
    assert stop_reason(loop)["type"] == thread_stop(loop) == "budget_reached"
    assert len(loop.requests) == 1


def test_an_interrupt_ends_the_turn_of_a_session_at_its_cap() -> None:
    loop = capped(agent(toolset()), [costing(uses(use("bash")), 10)])
    loop.run()
    loop.log.send("user.interrupt")
    loop.run()
    assert (thread_stop(loop), stop_reason(loop)["type"]) == ("end_turn", "budget_reached")
    assert loop.log.state.phase is Phase.IDLE


def test_a_retry_that_comes_due_at_the_cap_is_not_made() -> None:
    loop = capped(agent(), [away(), costing(text("x"), 1)], cents=1)
    loop.run()
    assert loop.log.state.phase is Phase.RESCHEDULING
    loop.log.now_us += 3600 * 1_000_000  # waiting costs nothing
    assert isinstance(loop.next(), CallModel)
    loop.log.now_us += 3600 * 1_000_000  # running does
    loop.perform(away_at(loop))
    loop.run()
    loop.log.now_us += 3600 * 1_000_000
    loop.run()
    assert stop_reason(loop)["type"] == "budget_reached"


def away_at(loop: Loop) -> Any:
    loop.model.appendleft(away())
    return loop.next()


def test_running_time_alone_can_reach_the_cap() -> None:
    loop = capped(agent(CUSTOM), [costing(uses(use("weather")), 0), text("x")], cents=8)
    effect = loop.next()
    loop.log.now_us += 3600 * 1_000_000
    loop.perform(effect)
    loop.run()
    loop.log.send("user.custom_tool_result", custom_tool_use_id=open_ids(loop)[0])
    loop.run()
    assert stop_reason(loop)["type"] == "budget_reached"


def test_r281_an_unpriced_model_pauses_until_the_budget_goes() -> None:
    loop = capped(agent(CUSTOM), [uses(use("weather")), text("done")])
    loop.run()
    loop.log.send("user.custom_tool_result", custom_tool_use_id=open_ids(loop)[0])
    loop.run()
    assert stop_reason(loop)["type"] == "budget_reached"
    assert "list_cost" not in last(loop, "session.usage")["usage"]
    with pytest.raises(InvalidRequest) as caught:
        budget.change(loop.log.state, limit(1000), loop.log.now_us)
    assert caught.value.hints.code == "model_not_budgetable"
    raised(loop, None)
    loop.run()
    assert stop_reason(loop)["type"] == "end_turn"


@pytest.mark.rule("R278", "R280")
def test_c12_2_c12_3_a_budget_is_set_once_and_removed_for_good() -> None:
    loop = Loop(agent())
    for state in (loop.log.state, removed()):
        with pytest.raises(InvalidRequest, match="budget_create_only") as caught:
            budget.change(state, limit(5), 0)
        assert caught.value.hints.code == "budget_create_only"
        assert budget.change(state, None, 0) == (False, None)


def removed() -> Any:
    loop = capped(agent(), [])
    raised(loop, None)
    return loop.log.state


@pytest.mark.rule("R279")
def test_c12_4_a_new_cap_lies_above_what_is_spent_to_the_last_fraction() -> None:
    loop = capped(agent(), [costing(text("x"), 3)])
    loop.run()
    state, at = loop.log.state, loop.log.now_us
    for low in (1, 2, 3):  # three cents of tokens, and some microseconds
        with pytest.raises(InvalidRequest, match="greater than the session's consumed") as caught:
            budget.change(state, limit(low), at)
        assert caught.value.hints.code == "budget_not_raised"
    assert budget.change(state, limit(4), at) == (True, budget.shown(4)), "lower is fine"
    assert budget.change(state, limit(10), at) == (False, budget.shown(10))


def test_c12_5_everything_that_can_run_needs_a_price() -> None:
    known = shipped_catalogue()
    budget.check_model("claude-opus-5", known.price("claude-opus-5"))
    with pytest.raises(InvalidRequest, match="'house-7b'") as caught:
        budget.check_model("house-7b", known.price("house-7b"))
    assert caught.value.hints.code == "model_not_budgetable"
    mate = {"model": {"id": "b", "speed": "fast"}, "tools": [{"input_schema": {"model": "no"}}]}
    named = {"model": "d"}
    coordinator = {"type": "coordinator", "agents": [mate, {"type": "advisor", "model": "c"}]}
    assert budget.models_of({"model": {"id": "a"}, "multiagent": coordinator}) == [
        ("a", "standard"),
        ("b", "fast"),
        ("c", "standard"),
    ]
    newer = {
        "subagents": {"type": "enabled", "predefined_agents": [mate]},
        "workflows": {"type": "disabled"},
        "advisor": {"type": "enabled", **named},
    }
    assert [m for m, _ in budget.models_of({"model": "a", "multiagent": newer})] == ["a", "d", "b"]
    assert budget.models_of({"model": "a", "multiagent": None}) == [("a", "standard")]


def test_usage_is_nothing_to_price_when_the_model_used_nothing() -> None:
    loop = capped(agent(), [ModelReply(text("x").content, "end_turn", Usage())])
    loop.run()
    assert stop_reason(loop)["type"] == "end_turn"
