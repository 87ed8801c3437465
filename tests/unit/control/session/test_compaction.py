"""A conversation that fills the model's window goes on, and what matters of it is still there."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intramuros.control.model.base import Failure, ModelError, ModelReply, Usage
from intramuros.control.session import compaction
from intramuros.control.session.compaction import MAX_IN_A_ROW, shrink
from intramuros.control.session.state import initial, load
from intramuros.control.session.turn import CallModel, Context, Limits, Wait, plan
from intramuros.control.session.view import View
from intramuros.control.store.records import Draft
from tests.fakes.loop import CUSTOM, END, START, Loop, agent, last, stop_reason, text, use
from tests.fakes.messages_rules import check_messages

WINDOW = 10_000
LIMITS = Limits(max_tokens=1_000, window_of=lambda model: {"some-model": WINDOW}.get(model))
COMPACTED = "agent.thread_context_compacted"
SUMMARY = "1. Task: count the rows of ledger.csv. 3. Facts: it has 41 rows. 4. Open: tell."


def reply(*blocks: dict[str, Any], tokens: int, stop: str = "end_turn") -> ModelReply:
    """A reply that leaves so many tokens in the window, counted as a provider does."""
    return ModelReply(list(blocks), stop, Usage(tokens - 30, 10, 5, 15))


def said(what: str) -> dict[str, Any]:
    return {"type": "text", "text": what}


def call(number: int = 1) -> dict[str, Any]:
    return use("weather", f"toolu_{number}")


def answer(loop: Loop, what: str = "sunny") -> None:
    for open_call in loop.log.state.calls:
        loop.log.send(
            "user.custom_tool_result", custom_tool_use_id=open_call.id, content=[said(what)]
        )


def texts(request: Any) -> str:
    return "\n".join(
        str(block.get("text") or block.get("content")) for m in request.messages
        for block in m["content"]
    )  # fmt: skip


def filled(*after: ModelReply | ModelError, tokens: int = 8_500) -> Loop:
    """A session whose first reply called a tool and filled the window."""
    loop = Loop(
        agent(CUSTOM), model=[reply(call(), tokens=tokens, stop="tool_use"), *after], limits=LIMITS
    )
    loop.log.say("Count the rows of ledger.csv, and be exact.")
    loop.run()
    answer(loop)
    return loop


def test_AMB28_it_comes_before_the_request_that_uses_it() -> None:
    loop = filled(reply(said(SUMMARY), tokens=9_000), text("41"))
    mark = loop.mark
    loop.run()
    assert loop.since(mark)[:8] == [
        "session.status_running",
        "session.thread_status_running",
        START,
        END,
        COMPACTED,
        START,
        "agent.message",
        END,
    ]
    assert stop_reason(loop)["type"] == "end_turn"
    assert last(loop, COMPACTED) == {}


def test_the_summary_is_asked_for_behind_what_the_provider_has_in_its_cache() -> None:
    loop = filled(reply(said(SUMMARY), tokens=9_000), text("41"))
    loop.run()
    first, asked, after = loop.requests
    assert (asked.system, asked.tools, asked.model) == (first.system, first.tools, first.model)
    plain = [b for m in asked.messages for b in m["content"]]
    assert plain[-1]["text"] == compaction._ASK
    assert plain[0] == first.messages[0]["content"][0]
    check_messages(asked.messages)
    check_messages(after.messages)
    assert len(after.messages) == 1


def test_the_task_and_the_latest_words_are_carried_over_as_they_were() -> None:
    loop = filled(reply(said(SUMMARY), tokens=9_000), text("41"))
    loop.run()
    told = texts(loop.requests[-1])
    assert "<user>\nCount the rows of ledger.csv, and be exact.\n</user>" in told
    assert SUMMARY in told
    assert "sunny" not in told


def test_many_words_leave_out_the_middle() -> None:
    loop = Loop(agent(), model=[], limits=LIMITS)
    for n in range(9):
        loop.log.say(f"message {n} " + "x" * 4_000)
        tokens = 9_000 if n == 8 else 100
        loop.model.append(reply(said("ok"), tokens=tokens))
        loop.run()
    loop.model += [reply(said(SUMMARY), tokens=9_000), text("done")]
    loop.log.say("latest")
    loop.run()
    told = texts(loop.requests[-1])
    kept = [n for n in range(9) if f"message {n} " in told]
    assert kept == [0, 7, 8] or kept == [0, 6, 7, 8]
    assert "latest" in told
    assert "[…]" in told
    assert len(told) < 25_000


def test_words_of_other_threads_and_of_what_was_forgotten_stay_out() -> None:
    loop = Loop(agent(), model=[text("ok")], limits=LIMITS)
    loop.log.say("forgotten")
    loop.run()
    loop.log.append(Draft(COMPACTED, private={"summary": []}))
    loop.log.say("the task")
    loop.model += [reply(said("much"), tokens=9_000)]
    loop.run()
    loop.model += [reply(said(SUMMARY), tokens=9_000), text("done")]
    loop.log.say("more")
    loop.run()
    told = texts(loop.requests[-1])
    assert "<user>\nthe task\n</user>" in told
    assert "forgotten" not in told
    elsewhere = replace(loop.view, thread_id="sthr_child")
    (block,) = compaction._summary(elsewhere, "x", None)
    assert "the task" not in block["text"]


def test_operator_text_is_never_summarised() -> None:
    loop = Loop(
        agent(),
        model=[reply(said("hi"), tokens=9_000), reply(said(SUMMARY), tokens=9_000), text("on")],
        limits=LIMITS,
    )
    loop.log.say("one")
    loop.log.send("system.message", content=[said("Never delete.")])
    loop.run()
    loop.log.say("two")
    loop.run()
    sent = loop.requests[-1].messages
    assert sent[-1] == {"role": "system", "content": [said("Never delete.")]}
    check_messages(sent)


@pytest.mark.parametrize(
    ("tokens", "result", "compacts"),
    [(7_900, "short", False), (8_100, "short", True), (5_000, "x" * 12_000, True)],
)
def test_real_counts_decide_and_what_came_since_is_estimated(
    tokens: int, result: str, compacts: bool
) -> None:
    loop = Loop(
        agent(CUSTOM),
        model=[
            reply(call(), tokens=tokens, stop="tool_use"),
            reply(said(SUMMARY), tokens=tokens),
            text("done"),
        ],
        limits=LIMITS,
    )
    loop.log.say()
    loop.run()
    answer(loop, result)
    loop.run()
    assert (COMPACTED in loop.log.types) == compacts


@pytest.mark.parametrize(("tokens", "room"), [(8_500, 4_096), (8_100, 4_096)])
def test_a_summary_gets_the_room_that_is_left(tokens: int, room: int) -> None:
    loop = filled(tokens=tokens)
    effect = loop.next()
    assert isinstance(effect, CallModel)
    assert effect.request.max_tokens == room
    roomy = compaction.request(loop.view, 100_000, 16_384)
    assert roomy.max_tokens == 16_384
    tight = compaction.request(loop.view, 20_000, 16_384)
    assert 4_096 < tight.max_tokens < 16_384
    assert compaction.request(loop.view, None, 16_384).max_tokens == 16_384


def test_a_window_that_nobody_knows_is_never_full() -> None:
    loop = filled(text("done"), tokens=10**9)
    loop.limits = Limits()
    loop.run()
    assert COMPACTED not in loop.log.types


def test_c15_21_summaries_that_do_not_help_end_the_turn() -> None:
    """Each leaves the conversation too full: nothing of the model's own comes in between."""
    loop = filled(*[reply(call(), tokens=9_000, stop="tool_use")] * MAX_IN_A_ROW)
    loop.run()
    error = last(loop, "session.error")["error"]
    assert error["type"] == "compaction_limit_reached_error"
    assert error["retry_status"] == {"type": "exhausted"}
    assert stop_reason(loop)["type"] == "retries_exhausted"
    assert COMPACTED not in loop.log.types
    # The next message starts a turn that may try again.
    loop.model += [reply(said(SUMMARY), tokens=9_000), text("better")]
    loop.log.say("and now?")
    loop.run()
    assert stop_reason(loop)["type"] == "end_turn"


def test_calls_in_a_summary_are_not_made() -> None:
    loop = filled(reply(said(SUMMARY), call(2), tokens=9_000, stop="tool_use"), text("41"))
    loop.run()
    assert loop.log.types.count("agent.custom_tool_use") == 1
    assert not loop.log.state.calls


def test_it_starts_over_when_the_window_fills_again() -> None:
    loop = filled(
        reply(said(SUMMARY), tokens=9_000),
        reply(call(2), tokens=8_500, stop="tool_use"),
        reply(said("second summary"), tokens=9_000),
        text("done"),
    )
    loop.run()
    answer(loop)
    loop.run()
    assert loop.log.types.count(COMPACTED) == 2
    told = texts(loop.requests[-1])
    assert "second summary" in told
    assert SUMMARY not in told
    assert "Count the rows of ledger.csv" in told


def test_a_provider_that_finds_it_too_long_gets_less() -> None:
    too_long = ModelError(Failure.REQUEST_FAILED, "413", retryable=False, too_long=True)
    loop = Loop(
        agent(CUSTOM),
        model=[
            reply(call(), tokens=100, stop="tool_use"),
            too_long,
            reply(said(SUMMARY), tokens=100),
            text("done"),
        ],
    )
    loop.log.say("Task.")
    loop.run()
    answer(loop, "y" * 100_000)
    loop.run()
    assert stop_reason(loop)["type"] == "end_turn"
    refused, asked, after = loop.requests[1:]
    assert len(texts(asked)) < 0.6 * len(texts(refused))
    assert "characters left out" in texts(asked)
    check_messages(asked.messages)
    assert "y" * 100 not in texts(after)


def test_one_that_finds_even_the_summary_too_long_ends_the_turn() -> None:
    too_long = ModelError(Failure.REQUEST_FAILED, "413", retryable=False, too_long=True)
    loop = filled(too_long, too_long, tokens=100)
    loop.run()
    assert stop_reason(loop)["type"] == "retries_exhausted"
    assert last(loop, "session.error")["error"]["message"] == "413"


def test_a_reply_that_hit_the_end_of_the_window_is_followed_by_a_summary() -> None:
    loop = Loop(
        agent(),
        model=[
            reply(said("half a"), tokens=100, stop="model_context_window_exceeded"),
            reply(said(SUMMARY), tokens=100),
            text("done"),
        ],
    )
    loop.log.say("one")
    loop.run()
    assert COMPACTED in loop.log.types
    assert last(loop, "agent.message")["content"][0]["text"] == "done", "and the turn goes on"


def test_an_interrupt_ends_it_like_any_request() -> None:
    loop = filled()
    effect = loop.next()
    assert isinstance(effect, CallModel)
    assert effect.compacts
    loop.log.send("user.interrupt")
    assert isinstance(loop.run(), Wait)
    assert stop_reason(loop)["type"] == "end_turn"
    assert COMPACTED not in loop.log.types


def test_a_crash_in_the_middle_asks_again() -> None:
    loop = filled(reply(said(SUMMARY), tokens=9_000), text("41"))
    first = loop.next()
    loop.crash()
    second = loop.next()
    assert isinstance(first, CallModel)
    assert isinstance(second, CallModel)
    assert second.request == first.request
    assert second.compacts
    loop.perform(second)
    loop.run()
    assert stop_reason(loop)["type"] == "end_turn"


def test_a_failed_one_is_tried_again_later() -> None:
    away = ModelError(Failure.OVERLOADED, "full", retryable=True)
    loop = filled(away, reply(said(SUMMARY), tokens=9_000), text("41"))
    wait = loop.run()
    assert wait.until_us is not None
    loop.log.now_us = wait.until_us + 1
    loop.run()
    assert COMPACTED in loop.log.types
    assert stop_reason(loop)["type"] == "end_turn"


def test_the_states_figures_survive_storage() -> None:
    loop = filled(*[reply(call(), tokens=9_000, stop="tool_use")] * 2)
    for _ in range(2):
        loop.perform(loop.next())
    state = loop.log.state
    assert (state.context_tokens, state.compactions) == (8_500, 2)
    assert load(state.dump()) == state


STEP = st.sampled_from(["call", "end", "fill", "overflow", "summary-less"])


@given(st.lists(STEP, min_size=1, max_size=12), st.integers(0, 10**6))
@settings(deadline=None, max_examples=150)
def test_every_prefix_of_a_log_leads_to_the_same_next_effect(
    steps: Sequence[str], crash_seed: int
) -> None:
    """Who reads the log from its beginning decides as the one who wrote it did."""
    loop = Loop(agent(CUSTOM), limits=LIMITS)
    taken: list[tuple[int, int, Any]] = []
    for number, step in enumerate(steps):
        loop.log.say(f"message {number}")
        while not isinstance(effect := loop.next(), Wait):
            taken.append((loop.mark, loop.epoch, effect))
            assert isinstance(effect, CallModel)
            check_messages(effect.request.messages)
            if (crash_seed >> (len(taken) % 20)) & 1 and len(taken) % 3 == 0:
                loop.crash()
                continue
            loop.model.append(_answer_of(step, effect, number))
            loop.perform(effect)
            step = "end" if step in ("overflow", "summary-less") and not effect.compacts else step
            answer(loop, "z" * 50)
            if step == "call":
                step = "end"
    for mark, epoch, effect in taken:
        fresh = View.empty(loop.subject, initial("sthr_main", self_hosted=True))
        fresh = fresh.extend(loop.log.records[:mark])
        context = Context(0, epoch, lambda: "sevt_x", lambda: 0.5, LIMITS)
        drafts, again = plan(fresh, context)
        assert not drafts
        assert again == effect


def _answer_of(step: str, effect: CallModel, number: int) -> ModelReply:
    if effect.compacts:
        blank = step == "summary-less" and number % 2
        return reply(*([] if blank else [said(SUMMARY)]), tokens=9_000)
    match step:
        case "call":
            return reply(call(number), tokens=2_000, stop="tool_use")
        case "fill":
            return reply(said("much"), tokens=9_500)
        case "overflow":
            return reply(said("half"), tokens=100, stop="model_context_window_exceeded")
        case _:
            return reply(said("done"), tokens=1_000)


@given(st.lists(st.text(max_size=3_000), min_size=1, max_size=6), st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=50)
def test_what_is_cut_keeps_its_shape(results: Sequence[str], share: float) -> None:
    messages = [
        {"role": "user", "content": [said("task")]},
        {"role": "assistant", "content": [call(n) for n in range(len(results))]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": [said(r)]}
                for n, r in enumerate(results)
            ],
        },
    ]
    cut = shrink(messages, share)
    assert [m["role"] for m in cut] == [m["role"] for m in messages]
    assert cut[1] == messages[1]
    pairs = zip(cut[2]["content"], results, strict=True)
    for block, was in pairs:
        now = block["content"][0]["text"]
        assert now == was or (len(now) < len(was) + 60 and "left out" in now)
    total = sum(map(len, results))
    kept = sum(len(b["content"][0]["text"]) for b in cut[2]["content"])
    assert kept <= max(share * total, 0) + len(results) * 260
