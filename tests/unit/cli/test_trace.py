from typing import Any

from intramuros.cli.trace import Line, ended, text_of, trace


def event(at_ms: int, kind: str, id: str = "", /, **more: Any) -> dict[str, Any]:
    at = f"2026-01-01T00:00:{at_ms / 1000:09.6f}Z"
    return {"id": id or f"e{at_ms}", "type": kind, "processed_at": at, **more}


def text(said: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": said}]


INPUT = {"a": "b", "n": 1}
EVENTS = [
    event(0, "user.message", content=text("do it")),
    event(5, "session.status_running"),
    event(10, "span.model_request_start", "s"),
    event(40, "span.model_request_end", model_request_start_id="s"),
    event(40, "agent.message", content=text("I will\nlook")),
    event(41, "agent.tool_use", "t", name="bash", input={"command": "ls"}),
    event(
        42, "agent.mcp_tool_use", "m", name="q", mcp_server_name="bank", input={"a": "b", "n": 1}
    ),
    event(43, "session.status_idle", stop_reason={"type": "requires_action"}),
    event(61, "user.tool_result", tool_use_id="t", is_error=True),
    event(62, "agent.mcp_tool_result", mcp_tool_use_id="m"),
    event(70, "session.error", error={"type": "x", "message": "away"}),
    event(80, "session.status_idle", stop_reason={"type": "end_turn"}),
    {"id": "queued", "type": "user.message", "processed_at": None},
]


def test_who_did_what_where_and_how_long() -> None:
    assert trace(EVENTS) == [
        Line(0, "client", "task", "do it"),
        Line(10, "brain", "model", "thinks", 30),
        Line(40, "brain", "says", "I will look"),
        Line(41, "hands", "sandbox", "bash ls", 20, failed=True),
        Line(42, "hands", "mcp bank", "q a=b, n=1", 20),
        Line(70, "control", "session", "error: away", failed=True),
        Line(80, "control", "session", "idle: end_turn"),
    ]


def test_what_has_no_answer_says_so() -> None:
    (line,) = trace([EVENTS[5]])
    assert (line.ms, line.what) == (None, "bash ls (unanswered)")


def test_nothing_gives_nothing_and_long_text_is_cut() -> None:
    assert trace([]) == []
    (line,) = trace([event(0, "agent.message", content=text("x" * 500))])
    assert len(line.what) == 90


def test_a_confirmation_is_no_answer() -> None:
    confirmed = event(50, "user.tool_confirmation", tool_use_id="t")
    assert ended([EVENTS[5], confirmed], EVENTS[5]) is None
    assert ended(EVENTS, EVENTS[5]) == EVENTS[8]


def test_text_of_odd_content() -> None:
    assert text_of({"content": "plain"}) == "plain"
    assert text_of({}) == ""
    assert text_of({"content": [1, {"text": "a"}]}) == "a"
