import json

from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.dreams import entries
from intramuros.control.store.records import Record


def record(type: str, **body: object) -> Record:
    return Record("sesn_1", 1, "sevt_1", type, 0, body)


def said(text: str) -> dict[str, object]:
    return {"content": [{"type": "text", "text": text}]}


@given(st.text())
def test_no_text_can_look_like_another_line(text: str) -> None:
    for line in (
        entries.event(record("user.message", **said(text))),
        entries.event(record("agent.tool_use", name=text, input={text: text})),
        entries.memory(text, text, 10**9)[0],
        entries.session(text, text),
    ):
        # JSON escapes what ends a line; the separators that it does not are no ends for JSON Lines.
        assert "\n" not in line
        assert "\r" not in line
        json.loads(line)


def test_an_event_says_who_and_what() -> None:
    line = json.loads(entries.event(record("agent.message", **said("Hello."))))
    assert line == {
        "event": "sevt_1",
        "at": "1970-01-01T00:00:00Z",
        "from": "agent",
        "text": "Hello.",
    }
    call = json.loads(entries.event(record("agent.mcp_tool_use", name="query", input={"a": 1})))
    assert (call["calls"], call["with"]) == ("query", '{"a": 1}')
    result = {"content": [{"type": "image"}, {"type": "text", "text": "b"}], "is_error": True}
    failed = json.loads(entries.event(record("user.tool_result", **result)))
    assert (failed["from"], failed["failed"], failed["text"]) == ("tool", True, "[image]\nb")
    error = {"error": {"message": "away"}}
    assert json.loads(entries.event(record("session.error", **error)))["error"] == "away"
    denied = {"result": "deny", "deny_message": "not there"}
    shown = json.loads(entries.event(record("user.tool_confirmation", **denied)))
    assert (shown["answer"], shown["text"]) == ("deny", "not there")
    assert json.loads(entries.event(record("agent.tool_result")))["text"] == ""


def test_long_events_keep_their_beginning_and_end() -> None:
    line = entries.event(record("user.message", **said("a" * 50_000 + "end")))
    text = json.loads(line)["text"]
    assert len(text) < entries.EVENT_CHARS + 100
    assert text.startswith("aaa")
    assert text.endswith("end")
    assert "[38003 characters left out]" in text


def test_a_memory_is_shown_whole_or_not_at_all() -> None:
    line, whole = entries.memory("/a", "x" * 100, 200)
    assert (json.loads(line), whole) == ({"memory": "/a", "text": "x" * 100}, True)
    line, whole = entries.memory("/a", "x" * 1000, 200)
    assert not whole
    assert "x" * 10 not in line
    assert "read_memory" in line
