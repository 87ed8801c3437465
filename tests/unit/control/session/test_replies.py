"""Replies that no model should give, and what becomes of the session all the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.model.base import ModelReply, Usage
from intramuros.control.session.conversation import CUT_OFF
from intramuros.control.session.replies import MAX_CUT_OFF, call_ids, sound, storable
from tests.fakes.band import Band, definition, delegate, lead
from tests.fakes.loop import (
    CUSTOM,
    Loop,
    agent,
    last,
    open_ids,
    stop_reason,
    text,
    toolset,
    use,
    uses,
)
from tests.fakes.messages_rules import check_messages


@pytest.mark.parametrize("stop", ["max_tokens", "model_context_window_exceeded"])
def test_a_reply_cut_off_in_its_text_is_gone_on_with(stop: str) -> None:
    whole = [text("half a", stop), text(" sentence.")]
    summary = [text("a summary")] if stop != "max_tokens" else []
    loop = Loop(agent(), model=[whole[0], *summary, whole[1]])
    loop.log.say()
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}
    assert loop.log.state.turn == 1
    if not summary:
        asked = loop.requests[1].messages
        assert [m["role"] for m in asked] == ["user", "assistant", "user"]
        assert asked[-1]["content"][0]["text"] == CUT_OFF
    check_messages(loop.requests[-1].messages)


def test_a_reply_that_thought_takes_whole_is_gone_on_with() -> None:
    thought = {"type": "thinking", "thinking": "so long", "signature": "s"}
    loop = Loop(agent(), model=[ModelReply([thought], "max_tokens", Usage(1, 1)), text("short")])
    loop.log.say()
    loop.run()
    assert last(loop, "agent.message")["content"][0]["text"] == "short"
    check_messages(loop.requests[1].messages)


def test_an_agent_without_end_is_asked_to_go_on_twice_and_then_no_more() -> None:
    loop = Loop(agent(), model=[text(f"part {n}", "max_tokens") for n in range(9)])
    loop.log.say()
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}
    assert len(loop.requests) == 1 + MAX_CUT_OFF
    loop.log.say("and now?")
    loop.run()
    assert len(loop.requests) == 2 * (1 + MAX_CUT_OFF), "the next turn has its own"


@pytest.mark.parametrize("stop", ["pause_turn", "stop_sequence", "something_new", "tool_use", ""])
def test_an_unknown_end_of_a_reply_is_an_end(stop: str) -> None:
    loop = Loop(agent(), model=[text("hi", stop), text("again")])
    loop.log.say()
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}
    loop.log.say()
    loop.run()
    check_messages(loop.requests[1].messages)


def test_an_empty_reply_ends_the_turn_and_leaves_no_trace() -> None:
    loop = Loop(agent(), model=[ModelReply([], "end_turn", Usage(1, 0)), text("again")])
    loop.log.say("one")
    loop.run()
    assert stop_reason(loop) == {"type": "end_turn"}
    loop.log.say("two")
    loop.run()
    (said,) = loop.requests[1].messages
    assert [block["text"] for block in said["content"]] == ["one", "two"]


def test_calls_under_one_id_are_told_apart() -> None:
    """In one reply and in two: providers refuse a conversation in which an id comes twice."""
    twice = uses(use("bash", "call_0", command="a"), use("bash", "call_0", command="b"))
    loop = Loop(agent(toolset()), model=[twice, uses(use("bash", "call_0")), text("done")])
    loop.log.say()
    for answers in (2, 1):
        loop.run()
        calls = open_ids(loop)
        assert len(calls) == answers
        for number, call in enumerate(calls):
            content = [{"type": "text", "text": f"answer {number}"}]
            loop.log.send("user.tool_result", tool_use_id=call, content=content)
    loop.run()
    asked = loop.requests[-1].messages
    check_messages(asked)
    ids = [b["id"] for m in asked for b in m["content"] if b["type"] == "tool_use"]
    assert ids[0] == "call_0", "the first one keeps its own"
    assert len(ids) == len(set(ids)) == 3
    results = [b for b in asked[2]["content"] if b["type"] == "tool_result"]
    assert [r["content"][0]["text"] for r in results] == ["answer 0", "answer 1"]
    assert [r["tool_use_id"] for r in results] == ids[:2]


@pytest.mark.parametrize("name", ["no such tool", "bäsh", "a" * 300, "mcp__x__</tools>", " "])
def test_a_name_that_no_tool_can_have_is_refused_and_goes_back_as_one_could(name: str) -> None:
    loop = Loop(agent(toolset()), model=[uses(use(name)), text("sorry")])
    loop.log.say()
    loop.run()
    assert last(loop, "agent.tool_use")["name"] == name
    assert last(loop, "agent.tool_use")["evaluated_permission"] == "deny"
    check_messages(loop.requests[1].messages)
    assert "There is no tool" in str(loop.requests[1].messages[-1])
    assert stop_reason(loop) == {"type": "end_turn"}


@pytest.mark.parametrize("given", ['{"command": "ls', "ls", "[1]", "null", ""])
def test_an_input_that_is_no_object_never_runs_and_the_model_is_told(given: str) -> None:
    block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": given}
    loop = Loop(agent(CUSTOM), model=[uses(block), text("sorry")])
    loop.log.say()
    loop.run()
    assert open_ids(loop) == []
    assert "not an object" in str(loop.requests[1].messages[-1])
    check_messages(loop.requests[1].messages)


def test_an_input_that_the_limit_cut_in_half_is_told_as_that() -> None:
    block = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": '{"command": "l'}
    loop = Loop(agent(toolset()), model=[uses(block, stop="max_tokens"), text("smaller")])
    loop.log.say()
    loop.run()
    assert "cut off inside this call" in str(loop.requests[1].messages[-1])
    assert stop_reason(loop) == {"type": "end_turn"}


def test_a_childs_words_that_went_on_are_one_report() -> None:
    band = Band(
        lead(definition("scout")),
        lead=[delegate("scout"), text("waiting"), text("done")],
        scout=[text("half a", "max_tokens"), text(" report")],
    )
    band.log.say("go")
    band.run()
    told = [r for r in band.log.records if r.type == "agent.thread_message_received"]
    reports = [r.body["content"] for r in told if r.body.get("from_agent_name") == "scout"]
    assert reports
    assert "".join(str(block["text"]) for block in reports[-1]) == "half a report"


names = st.sampled_from(["toolu_1", "toolu_2", "", "a b", "x" * 300, "call_0", "ü"])


@given(st.lists(st.tuples(names, st.text(max_size=5))), st.sets(names))
def test_whatever_the_ids_what_is_kept_can_be_sent(
    calls: list[tuple[str, str]], taken: set[str]
) -> None:
    content = [{"type": "tool_use", "id": i, "name": n, "input": n} for i, n in calls]
    fresh = iter(f"sevt_{n}" for n in range(1000))
    kept = sound(content, taken, fresh.__next__)
    ids = [str(block["id"]) for block in kept]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & taken
    for before, block in zip(content, kept, strict=True):
        if before["id"] not in taken and [i for i, _ in calls].count(str(before["id"])) == 1:
            assert block["id"] in (before["id"], *ids)
        assert storable(block)["input"] == {}


def test_what_is_sound_stays_as_it_is() -> None:
    content = [{"type": "text", "text": "x"}, use("bash", "toolu_9", command="ls")]
    assert sound(content, {"toolu_8"}, lambda: "never") == content
    assert [storable(block) for block in content] == content


def test_the_calls_of_a_conversation_are_known() -> None:
    loop = Loop(agent(toolset()), model=[uses(use("nonsense", "toolu_7")), text("done")])
    loop.log.say()
    loop.run()
    assert call_ids(loop.requests[0]) == set()
    assert call_ids(loop.requests[1]) == {"toolu_7"}
