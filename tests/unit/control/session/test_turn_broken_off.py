"""Transcripts of turns that are interrupted, fail, or lose the process that ran them."""

import pytest

from intramuros.control.session.phase import Phase
from intramuros.control.session.turn import UNKNOWN_OUTCOME, CallModel, Limits, MakeCalls, Wait
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


def test_an_interrupt_closes_open_calls_and_ends_the_turn_without_sampling() -> None:
    reply = uses(use("bash", "toolu_1"), use("weather", "toolu_2"))
    loop = Loop(agent(toolset(), CUSTOM), model=[reply, text("ok")])
    loop.log.say()
    loop.run()
    mark = loop.mark
    loop.log.send("user.interrupt")
    loop.run()
    closed = ["user.tool_result", "user.custom_tool_result"]
    assert loop.since(mark) == ["user.interrupt", *closed, *REST]
    assert stop_reason(loop) == {"type": "end_turn"}
    loop.log.say("go on")
    loop.run()
    roles = [m["role"] for m in loop.requests[1].messages]
    assert roles == ["user", "assistant", "user"]


@pytest.mark.rule("c15_4", "c15_13")
def test_an_interrupt_during_a_request_ends_its_span() -> None:
    loop = Loop(agent(), model=[])
    loop.log.say()
    assert isinstance(loop.next(), CallModel)
    mark = loop.mark
    loop.log.send("user.interrupt")
    assert loop.run() == Wait()
    assert loop.since(mark) == [END, "user.interrupt", *REST]
    assert last(loop, END)["is_error"] is True


@pytest.mark.rule("c15_15")
def test_a_message_behind_an_interrupt_is_the_next_turn_one_before_it_is_only_heard() -> None:
    loop = Loop(agent(), model=[text("yes")])
    loop.log.say()
    loop.next()
    mark = loop.mark
    loop.log.say("before")
    loop.log.send("user.interrupt")
    loop.log.say("behind")
    loop.run()
    assert loop.since(mark)[:3] == [END, "user.message", "user.interrupt"]
    assert loop.since(mark)[3:9] == [*REST, *OPEN, "user.message"]
    said = [block["text"] for block in loop.requests[0].messages[0]["content"]]
    assert said == ["hello", "before", "behind"]


@pytest.mark.rule("c15_17")
def test_interrupting_an_idle_session_changes_nothing() -> None:
    loop = Loop(agent(), model=[text("hi")])
    loop.log.say()
    loop.run()
    mark = loop.mark
    loop.log.send("user.interrupt")
    loop.run()
    assert loop.since(mark) == ["user.interrupt"]


@pytest.mark.rule("c15_1", "c15_13", "c15_14")
def test_an_interrupt_before_the_turn_began_is_followed_by_an_idle_all_the_same() -> None:
    loop = Loop(agent(), model=[text("yes")])
    loop.log.say("never mind")
    loop.log.send("user.interrupt")
    assert loop.run() == Wait()
    assert loop.log.types == [*OPEN, "user.message", "user.interrupt", *REST]
    assert stop_reason(loop) == {"type": "end_turn"}
    assert loop.requests == [], "nothing is sampled"
    mark = loop.mark
    loop.log.send("user.interrupt")
    loop.run()
    assert loop.since(mark) == ["user.interrupt"], "there is nothing to stop any more"
    loop.log.say("now")
    loop.run()
    said = [block["text"] for block in loop.requests[0].messages[0]["content"]]
    assert said == ["never mind", "now"]


def test_what_stands_behind_an_interrupt_of_an_idle_session_is_a_turn_of_its_own() -> None:
    loop = Loop(agent(), model=[text("yes")])
    loop.log.send("user.interrupt")
    loop.log.say("go")
    loop.run()
    assert loop.log.types[:4] == ["user.interrupt", *OPEN, "user.message"]
    assert loop.log.types.count("session.status_idle") == 1


def test_an_interrupt_ends_a_rescheduled_turn() -> None:
    loop = Loop(agent(), model=[away()])
    loop.log.say()
    loop.run()
    mark = loop.mark
    loop.log.send("user.interrupt")
    assert loop.run() == Wait()
    assert loop.since(mark) == ["user.interrupt", *REST]


def test_a_confirmation_behind_an_interrupt_has_nothing_left_to_confirm() -> None:
    loop = Loop(agent(toolset(ASK)), model=[uses(use("bash"))])
    loop.log.say()
    loop.run()
    (call,) = open_ids(loop)
    loop.log.send("user.interrupt")
    loop.log.send("user.tool_confirmation", tool_use_id=call, result="allow")
    loop.run()
    assert loop.log.state.phase is Phase.IDLE
    assert loop.log.state.queued == ()


@pytest.mark.rule("c15_18")
def test_a_passing_failure_is_tried_again_after_a_while() -> None:
    loop = Loop(agent(), model=[away(), away(), text("hi")])
    loop.log.say()
    wait = loop.run()
    assert loop.log.types[3:] == [
        START,
        END,
        "session.error",
        "session.thread_status_rescheduled",
        "session.status_rescheduled",
    ]
    assert last(loop, "session.error")["error"]["retry_status"] == {"type": "retrying"}
    assert wait.until_us is not None
    assert loop.run() == wait  # too early
    loop.log.now_us = wait.until_us
    second = loop.run()
    assert second.until_us is not None
    assert second.until_us - loop.log.now_us > wait.until_us - loop.log.now_us
    mark = loop.mark
    loop.log.now_us = second.until_us
    loop.run()
    assert loop.since(mark) == [*OPEN, START, "agent.message", END, *REST]
    assert loop.log.state.turn == 1


def test_retries_wait_longer_and_longer_and_never_all_at_once() -> None:
    """Full jitter: between a tenth of a ceiling that doubles up to a minute, and the ceiling."""
    for rand in (0.0, 0.5, 0.999):
        loop = Loop(agent(), model=[away()] * 9)
        loop.rand = rand
        loop.log.say()
        delays_s = []
        while (until_us := loop.run().until_us) is not None:
            at_us = loop.log.records[-1].at_us
            delays_s.append((until_us - at_us) / 1_000_000)
            loop.log.now_us = until_us
        ceilings = [1, 2, 4, 8, 16, 32, 60, 60]
        assert delays_s == pytest.approx([c * (0.1 + 0.9 * rand) for c in ceilings], abs=0.001)
        assert stop_reason(loop) == {"type": "retries_exhausted"}
        assert len(loop.requests) == 9


def test_a_retry_whose_process_died_comes_at_its_time_and_counts_on() -> None:
    """Nothing of a backoff is anybody's memory: who takes over waits, and gives up in time."""
    limits = Limits(failures=2)
    loop = Loop(agent(), model=[away(), away(), away(), text("back")], limits=limits)
    loop.log.say()
    for _ in range(2):
        wait = loop.run()
        loop.crash()
        assert loop.next() == wait, "not a moment earlier"
        assert wait.until_us is not None
        loop.log.now_us = wait.until_us
        loop.crash()
    loop.run()
    assert stop_reason(loop) == {"type": "retries_exhausted"}
    errors = [r.body["error"] for r in loop.log.shown if r.type == "session.error"]
    assert [e["retry_status"]["type"] for e in errors] == ["retrying", "retrying", "exhausted"]
    loop.log.say("is it back?")
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}
    assert loop.log.state.failures == 0


def test_the_providers_own_wish_is_kept() -> None:
    loop = Loop(agent(), model=[away(retry_after_s=40)])
    loop.log.say()
    wait = loop.run()
    assert wait.until_us is not None
    assert wait.until_us - loop.log.now_us > 39_000_000


@pytest.mark.parametrize("errors", [[away(retryable=False)], [away(), away()]])
@pytest.mark.rule("c15_19")
def test_a_lasting_failure_ends_the_turn_and_hears_what_waits(errors: list[object]) -> None:
    loop = Loop(agent(), model=[*errors, text("hi")], limits=Limits(failures=1))
    loop.log.say("one")
    effect = loop.next()
    loop.log.say("two")
    loop.perform(effect)
    if (wait := loop.run()).until_us:
        loop.log.now_us = wait.until_us
        loop.run()
    assert last(loop, "session.error")["error"]["retry_status"] == {"type": "exhausted"}
    assert loop.log.types[-5:] == ["session.error", "user.message", *REST]
    assert stop_reason(loop) == {"type": "retries_exhausted"}
    loop.log.say("three")
    loop.run()
    said = [block["text"] for block in loop.requests[-1].messages[0]["content"]]
    assert said == ["one", "two", "three"]


@pytest.mark.rule("c15_21")
def test_the_limit_of_rounds_ends_the_turn() -> None:
    replies = [uses(use("mcp__db__query", f"toolu_{n}")) for n in range(3)]
    loop = Loop(
        agent(mcp_toolset()), model=[*replies, text("hi")], mcp=[ROWS] * 3, limits=Limits(rounds=3)
    )
    loop.log.say()
    loop.run()
    assert last(loop, "session.error")["error"]["type"] == "tool_use_limit_reached_error"
    assert stop_reason(loop) == {"type": "retries_exhausted"}
    loop.log.say()
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}


@pytest.mark.rule("c13_18")
def test_operator_text_joins_the_turn_it_came_with() -> None:
    loop = Loop(agent(CUSTOM), model=[uses(use("weather")), text("a"), text("b")])
    loop.log.say()
    loop.run()
    (call,) = open_ids(loop)
    loop.log.send("user.custom_tool_result", custom_tool_use_id=call)
    loop.log.send("system.message", content=[{"type": "text", "text": "be brief"}])
    loop.run()
    assert loop.requests[1].messages[-1] == {
        "role": "system",
        "content": [{"type": "text", "text": "be brief"}],
    }


def test_operator_text_alone_waits_for_the_next_message() -> None:
    loop = Loop(agent(), model=[text("a")])
    loop.log.send("system.message", content=[{"type": "text", "text": "be brief"}])
    assert loop.run() == Wait()
    assert loop.log.types == []
    loop.log.say()
    loop.run()
    assert [m["role"] for m in loop.requests[0].messages] == ["user", "system"]


def test_a_request_left_by_a_dead_process_is_ended_and_made_again() -> None:
    loop = Loop(agent(), model=[text("hi")])
    loop.log.say()
    assert isinstance(loop.next(), CallModel)
    loop.crash()
    loop.run()
    assert loop.log.types[3:] == [START, END, START, "agent.message", END, *REST]
    starts = [r.private["message_id"] for r in loop.log.shown if r.type == START]
    assert len(set(starts)) == 2


def test_a_request_that_keeps_killing_processes_is_given_up() -> None:
    loop = Loop(agent(), limits=Limits(failures=2))
    loop.log.say()
    while isinstance(loop.next(), CallModel):
        loop.crash()
    assert stop_reason(loop) == {"type": "retries_exhausted"}
    assert loop.log.types.count(START) == 3


def test_a_changing_mcp_call_left_by_a_dead_process_is_never_repeated() -> None:
    loop = Loop(agent(mcp_toolset()), model=[uses(use("mcp__db__insert")), text("hm")])
    loop.log.say()
    while not isinstance(effect := loop.next(), MakeCalls):
        loop.perform(effect)
    loop.crash()
    loop.run()
    result = last(loop, "agent.mcp_tool_result")
    assert result["content"] == [{"type": "text", "text": UNKNOWN_OUTCOME}]
    assert result["is_error"] is True


def test_a_reading_mcp_call_left_by_a_dead_process_is_repeated() -> None:
    loop = Loop(agent(mcp_toolset()), model=[uses(use("mcp__db__query")), text("3")], mcp=[ROWS])
    loop.log.say()
    while not isinstance(effect := loop.next(), MakeCalls):
        loop.perform(effect)
    loop.crash()
    loop.run()
    assert last(loop, "agent.mcp_tool_result")["is_error"] is False
    assert sum(r.type == "internal.mcp_call_started" for r in loop.log.records) == 2
