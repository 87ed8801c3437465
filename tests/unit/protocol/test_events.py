import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from intramuros.protocol.events import (
    ANSWERS,
    INBOUND,
    MAX_BLOCKS,
    MAX_EVENTS_PER_SEND,
    RESULT_EVENTS,
    SendEvents,
)

TEXT = {"type": "text", "text": "hello"}
VALID: dict[str, dict[str, object]] = {
    "user.message": {"content": [TEXT]},
    "user.interrupt": {},
    "user.tool_confirmation": {"tool_use_id": "t", "result": "deny", "deny_message": "no"},
    "user.tool_result": {"tool_use_id": "t", "content": [TEXT], "is_error": False},
    "user.custom_tool_result": {"custom_tool_use_id": "t"},
    "system.message": {"content": [TEXT]},
}


@pytest.mark.parametrize("kind", VALID)
def test_each_inbound_type_is_read_back_as_it_was_sent(kind: str) -> None:
    body = {"type": kind, **VALID[kind]}
    assert INBOUND.validate_python(body).model_dump(exclude_unset=True) == body


@pytest.mark.parametrize("kind", VALID)
def test_unknown_members_are_refused_by_name(kind: str) -> None:
    with pytest.raises(ValidationError, match="budgget"):
        INBOUND.validate_python({"type": kind, **VALID[kind], "budgget": 1})


@pytest.mark.parametrize(
    "body",
    [
        {"type": "agent.message", "content": [TEXT]},
        {"type": "user.message", "content": []},
        {"type": "user.message", "content": "hello"},
        {"type": "user.message", "content": [TEXT] * (MAX_BLOCKS + 1)},
        {"type": "user.message", "content": [{"type": "search_result"}]},
        {"type": "user.message", "content": [{"type": "image", "source": {"type": "text"}}]},
        {"type": "user.tool_confirmation", "tool_use_id": "t", "result": "ask"},
        {"type": "user.tool_confirmation", "tool_use_id": "", "result": "allow"},
        {"type": "user.tool_result", "content": [TEXT]},
        {"type": "system.message", "content": [{"type": "image"}]},
        {},
    ],
)
def test_what_the_contract_does_not_allow_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        INBOUND.validate_python(body)


@pytest.mark.parametrize(
    "source",
    [
        {"type": "base64", "media_type": "image/png", "data": "AAAA"},
        {"type": "url", "url": "https://example.test/a.png"},
        {"type": "file", "file_id": "file_1"},
    ],
)
@pytest.mark.rule("c13_6")
def test_images_and_documents_take_each_source(source: dict[str, str]) -> None:
    for kind in ("image", "document"):
        INBOUND.validate_python(
            {"type": "user.message", "content": [{"type": kind, "source": source}]}
        )


def test_a_send_is_one_or_more_events_within_the_bound() -> None:
    event = {"type": "user.message", "content": [TEXT]}
    assert len(SendEvents.model_validate({"events": [event] * 3}).events) == 3
    for wrong in ([], [event] * (MAX_EVENTS_PER_SEND + 1)):
        with pytest.raises(ValidationError):
            SendEvents.model_validate({"events": wrong})


def test_each_call_is_answered_by_the_event_that_names_it() -> None:
    for kind in RESULT_EVENTS:
        member = next(member for answer, member in ANSWERS.values() if answer == kind)
        assert INBOUND.validate_python({"type": kind, member: "call_1"})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_foreign_json_is_refused_and_never_crashes(value: object) -> None:
    with pytest.raises(ValidationError):
        SendEvents.model_validate({"events": [value]})
