import pytest

from intramuros.control.model.base import ModelReply
from intramuros.control.session.conversation import (
    CUT_OFF,
    LAST,
    REVISE,
    Unanswered,
    files_of,
    messages,
)
from intramuros.control.session.turn import Wait
from intramuros.control.store.records import Draft
from tests.fakes.loop import CUSTOM, Loop, agent, text, toolset, use, uses, verdict
from tests.fakes.messages_rules import check_messages

CACHED = {"cache_control": {"type": "ephemeral"}}


def said(message: object) -> list[str]:
    return [block["text"] for block in message["content"]]


def test_the_models_own_blocks_come_back_as_they_were() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "abc"}
    reply = ModelReply(
        [thinking, {"type": "text", "text": "a"}, use("weather", "toolu_9")], "tool_use"
    )
    loop = Loop(agent(CUSTOM), model=[reply, text("done")])
    loop.log.say()
    loop.run()
    (call,) = loop.log.state.calls
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
    loop.log.send(
        "user.custom_tool_result",
        custom_tool_use_id=call.id,
        content=[{"type": "text", "text": ""}, image],
        is_error=True,
    )
    loop.run()
    sent = loop.requests[1].messages
    assert sent[1] == {"role": "assistant", "content": list(reply.content)}
    result = {"type": "tool_result", "tool_use_id": "toolu_9", "content": [image], "is_error": True}
    assert sent[2] == {"role": "user", "content": [{**result, **CACHED}]}
    check_messages(sent)


def test_a_request_says_which_files_it_names_until_a_summary_stands_for_them() -> None:
    def named(file_id: str) -> dict[str, object]:
        return {"type": "image", "source": {"type": "file", "file_id": file_id}}

    loop = Loop(agent(CUSTOM), model=[uses(use("weather")), text("seen"), text("what?")])
    loop.log.send("user.message", content=[named("file_1")])
    loop.run()
    (call,) = loop.log.state.calls
    loop.log.send("user.custom_tool_result", custom_tool_use_id=call.id, content=[named("file_2")])
    loop.run()
    assert [request.files for request in loop.requests] == [{"file_1"}, {"file_1", "file_2"}]
    assert set(files_of(loop.requests[1].messages)) == {"file_1", "file_2"}
    summary = {"summary": [{"type": "text", "text": "A cat."}, named("file_2")]}
    loop.log.append(Draft("agent.thread_context_compacted", private=summary))
    loop.log.say()
    loop.run()
    assert loop.requests[2].files == {"file_2"} == set(files_of(loop.requests[2].messages))


def test_a_result_without_content_has_none() -> None:
    loop = Loop(agent(CUSTOM), model=[uses(use("weather")), text("done")])
    loop.log.say()
    loop.run()
    (call,) = loop.log.state.calls
    loop.log.send("user.custom_tool_result", custom_tool_use_id=call.id)
    loop.run()
    (block,) = loop.requests[1].messages[-1]["content"]
    assert block == {"type": "tool_result", "tool_use_id": "toolu_1", **CACHED}


def test_the_two_newest_user_messages_are_marked() -> None:
    loop = Loop(agent(), model=[text("one"), text("two"), text("three")])
    for _ in range(3):
        loop.log.say()
        loop.run()
    marks = ["cache_control" in m["content"][-1] for m in loop.requests[2].messages]
    assert marks == [False, False, True, False, True]


def test_silence_is_said_in_words() -> None:
    loop = Loop(agent(), model=[text("one"), text("two")])
    loop.log.say("")
    loop.run()
    assert said(loop.requests[0].messages[0]) == ["(no text)"]


def test_a_reply_of_nothing_leaves_no_message() -> None:
    loop = Loop(agent(), model=[ModelReply([{"type": "text", "text": ""}], "end_turn"), text("b")])
    loop.log.say("one")
    loop.run()
    loop.log.say("two")
    loop.run()
    (message,) = loop.requests[1].messages
    assert said(message) == ["one", "two"]


def test_thinking_that_was_cut_off_is_left_out() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "abc"}
    loop = Loop(agent(), model=[ModelReply([thinking], "max_tokens"), text("b")])
    loop.log.say("one")
    loop.run()
    (message,) = loop.requests[1].messages
    assert said(message) == ["one", CUT_OFF]


def test_a_call_without_a_result_makes_no_request() -> None:
    loop = Loop(agent(toolset()), model=[uses(use("bash"))])
    loop.log.say()
    loop.run()
    with pytest.raises(Unanswered):
        messages(loop.view.conversation)


def test_a_conversation_never_changes() -> None:
    loop = Loop(agent(), model=[text("hi"), text("ho")])
    loop.log.say()
    loop.run()
    early = loop.view.conversation
    before = str(messages(early))
    loop.log.say()
    loop.run()
    assert str(messages(early)) == before
    assert "cache_control" not in str(early)


def test_what_was_compacted_is_told_by_its_summary_alone() -> None:
    loop = Loop(agent(), model=[text("first"), text("second"), text("third")])
    loop.log.say("one")
    loop.run()
    summary = [{"type": "text", "text": "It was about one."}]
    for told, heard in ((summary, ["It was about one.", "more"]), ([], ["more"])):
        loop.log.append(Draft("agent.thread_context_compacted", private={"summary": told}))
        loop.log.say("more")
        loop.run()
        sent = loop.requests[-1].messages
        assert [said(message) for message in sent] == [heard]
        check_messages(sent)


def test_an_outcome_is_told_when_its_turn_comes_and_so_is_each_verdict() -> None:
    answers = [text("one"), text("two"), text("bye"), text("hello")]
    no = verdict(False)
    loop = Loop(agent(), model=answers, grader=[no, no, verdict(True)])
    loop.log.aim("- first", 2)
    loop.log.aim("- second")
    loop.run()
    (begun,) = said(loop.requests[0].messages[0])
    assert "Build it." in begun
    assert "- first" in begun
    assert "second" not in begun
    assert REVISE in said(loop.requests[1].messages[-1])[0]
    assert LAST in said(loop.requests[2].messages[-1])[0]
    assert "- second" in said(loop.requests[3].messages[-1])[0]
    for request in loop.requests:
        check_messages(request.messages)
    assert not loop.view.conversation.aims


def test_an_outcome_that_waits_outlives_a_compaction() -> None:
    loop = Loop(agent(), model=[text("done")], grader=[verdict(True)])
    loop.log.aim("- kept")
    loop.log.append(Draft("agent.thread_context_compacted", private={"summary": []}))
    loop.run()
    assert "- kept" in said(loop.requests[0].messages[0])[0]


def test_the_outcome_under_way_is_told_again_behind_a_summary() -> None:
    loop = Loop(
        agent(), model=[text("one"), text("two"), text("x")], grader=[verdict(False), verdict(True)]
    )
    loop.log.aim("- kept")
    loop.perform(loop.next())
    assert not isinstance(loop.next(), Wait)
    summary = [{"type": "text", "text": "So far."}]
    loop.log.append(Draft("agent.thread_context_compacted", private={"summary": summary}))
    loop.run()
    again = said(loop.requests[1].messages[0])
    assert again[0] == "So far."
    assert "- kept" in again[1]
    assert REVISE in again[2]
    assert loop.view.conversation.aim is None
    loop.log.append(Draft("agent.thread_context_compacted", private={"summary": summary}))
    loop.log.say("more")
    loop.run()
    assert said(loop.requests[2].messages[0]) == ["So far.", "more"]
