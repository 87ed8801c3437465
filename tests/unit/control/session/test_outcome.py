import pytest

from intramuros.control.mcp.base import McpError, McpFailure, McpResult
from intramuros.control.model.base import ModelReply
from intramuros.control.session import outcome
from intramuros.control.session.calls import Call, CallKind
from intramuros.control.session.turn import CallModel
from tests.fakes.loop import CUSTOM, INSERT, QUERY, Loop, agent, away, mcp_toolset, text, use


def asked(loop: Loop) -> CallModel:
    loop.log.say()
    effect = loop.next()
    assert isinstance(effect, CallModel)
    return effect


@pytest.mark.rule("c15_3")
def test_a_reply_is_recorded_in_the_contracts_order() -> None:
    loop = Loop(agent(CUSTOM))
    effect = asked(loop)
    thought = {"type": "redacted_thinking", "data": "x"}
    content = [
        thought,
        {"type": "text", "text": "a"},
        use("weather"),
        {"type": "text", "text": "b"},
    ]
    drafts = outcome.replied(
        loop.view, effect, ModelReply(content, "tool_use"), ["sevt_seen"], loop.context
    )
    assert [draft.type for draft in drafts] == [
        "agent.thinking",
        "agent.message",
        "agent.custom_tool_use",
        "span.model_request_end",
    ]
    assert drafts[0].id == "sevt_seen"
    assert drafts[1].id == effect.message_id
    assert drafts[1].body["content"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    assert drafts[3].private == {
        "content": content,
        "calls": [["toolu_1", drafts[2].id]],
        "ending": None,
        "stop_reason": "tool_use",
        "cost": None,
        "model": "some-model",
    }


def test_thinking_that_was_not_previewed_gets_an_id_of_its_own() -> None:
    loop = Loop(agent())
    effect = asked(loop)
    reply = ModelReply([{"type": "thinking", "thinking": "", "signature": ""}], "end_turn")
    drafts = outcome.replied(loop.view, effect, reply, [], loop.context)
    assert drafts[0].id is None


def test_calls_of_a_refused_reply_are_not_made() -> None:
    loop = Loop(agent(CUSTOM))
    effect = asked(loop)
    reply = ModelReply([use("weather")], "refusal")
    (end,) = outcome.replied(loop.view, effect, reply, [], loop.context)
    assert end.private is not None
    assert end.private["ending"] == "refusal"


def test_an_endless_wish_for_patience_is_bounded() -> None:
    loop = Loop(agent())
    effect = asked(loop)
    drafts = outcome.model_failed(loop.view, effect, away(retry_after_s=1e9), loop.context)
    private = drafts[-1].private
    assert private is not None
    retry_at_us = private["retry_at_us"]
    assert isinstance(retry_at_us, int)
    assert retry_at_us - loop.log.now_us == outcome.RETRY_AFTER_CAP_S * 1_000_000


def test_tools_are_recorded_when_they_change_only() -> None:
    loop = Loop(agent(mcp_toolset()), model=[text("a")])
    loop.log.say()
    loop.run()
    same = outcome.listed(loop.view, {"db": [QUERY, INSERT]})
    assert [draft.type for draft in same] == ["internal.mcp_listed"]
    other = outcome.listed(loop.view, {"db": [QUERY]})
    assert [draft.type for draft in other] == ["internal.mcp_tools", "internal.mcp_listed"]


@pytest.mark.rule("R102", "R103")
def test_a_refused_credential_is_told_from_a_server_that_is_away() -> None:
    loop = Loop(agent(mcp_toolset()))
    error = McpError("db", McpFailure.AUTHENTICATION, "expired")
    report, mark = outcome.listed(loop.view, {"db": error})
    assert report.body["error"]["type"] == "mcp_authentication_failed_error"
    assert mark.body["servers"] == []


def test_long_results_are_cut_and_say_so() -> None:
    blocks = [{"type": "text", "text": "a" * 6}, {"type": "image"}, {"type": "text", "text": "bcd"}]
    first, image, second = outcome.cut(blocks, 7)
    assert first == blocks[0]
    assert image == blocks[1]
    assert second["text"].startswith("b\n[cut: 2 of 3")
    assert outcome.cut(blocks, 100) == blocks


def test_an_mcp_answer_keeps_its_blocks() -> None:
    loop = Loop(agent(mcp_toolset()))
    call = Call("sevt_1", CallKind.MCP)
    answer = McpResult([{"type": "text", "text": "x"}], is_error=True)
    draft = outcome.mcp_answered(loop.view, call, answer, 100)
    assert draft.body == {
        "mcp_tool_use_id": "sevt_1",
        "content": [{"type": "text", "text": "x"}],
        "is_error": True,
    }
