import pytest

from intramuros.control.session import drafts
from intramuros.control.session.calls import Call, CallKind
from intramuros.control.store.records import Draft
from tests.fakes.loop import Loop, agent


@pytest.mark.parametrize(
    ("kind", "self_hosted", "type", "member"),
    [
        (CallKind.SANDBOX, True, "user.tool_result", "tool_use_id"),
        (CallKind.SANDBOX, False, "agent.tool_result", "tool_use_id"),
        (CallKind.CUSTOM, True, "user.custom_tool_result", "custom_tool_use_id"),
        (CallKind.MCP, True, "agent.mcp_tool_result", "mcp_tool_use_id"),
    ],
)
def test_each_kind_of_call_is_answered_in_its_own_type(
    kind: CallKind, self_hosted: bool, type: str, member: str
) -> None:
    draft = drafts.error_result(Call("sevt_1", kind), "no", self_hosted=self_hosted)
    assert draft.type == type
    assert draft.body[member] == "sevt_1"
    assert draft.body["is_error"] is True


def test_usage_has_every_counter_from_the_start() -> None:
    view = Loop(agent()).view
    assert drafts.usage(view, 0) == {
        "usage": {
            "input_tokens": 0,
            "output_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "cache_read_input_tokens": 0,
            "active_seconds": 0.0,
            "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
            "list_cost": {"amount": "0", "currency": "USD"},
        },
        "budget": None,
    }


def test_a_waiting_input_keeps_its_id_when_it_is_processed() -> None:
    loop = Loop(agent())
    said = loop.log.say("hi")
    (waiting,) = loop.view.waiting()
    draft = drafts.processed(waiting)
    assert (draft.id, draft.type, draft.queued) == (said, "user.message", False)
    assert draft.body == waiting.body


def test_giving_up_hears_everything_first() -> None:
    loop = Loop(agent())
    loop.log.say()
    error = Draft("session.error")
    types = [draft.type for draft in drafts.exhausted(loop.view, 0, error)]
    assert types == [
        "session.error",
        "user.message",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
