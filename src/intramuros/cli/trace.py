"""A session's events as a trace: who did what, where, and how long it took. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from intramuros.kernel.timing import parse_rfc3339

Event = Mapping[str, object]

DETAIL_CHARS: Final = 90

BRAIN: Final = "brain"
HANDS: Final = "hands"
CLIENT: Final = "client"
CONTROL: Final = "control"


@dataclass(frozen=True)
class Line:
    """One line: ``at_ms`` since the first event, ``ms`` how long it took when that is known."""

    at_ms: int
    who: str
    where: str
    what: str
    ms: int | None = None
    failed: bool = False


def trace(events: Sequence[Event]) -> list[Line]:
    """Return the trace of a session's events, oldest first; queued events have no place yet."""
    placed = [e for e in events if e.get("processed_at")]
    if not placed:
        return []
    began = _at(placed[0])
    answers = _answers(placed)
    lines = []
    for event in placed:
        line = _line(event, began, answers)
        if line is not None:
            lines.append(line)
    return lines


def ended(events: Sequence[Event], began: Event) -> Event | None:
    """Return the event that ends what ``began`` began (a call's result, a request's end)."""
    return _answers(events).get(str(began.get("id")))


def _answers(events: Sequence[Event]) -> dict[str, Event]:
    links = (
        "tool_use_id",
        "mcp_tool_use_id",
        "custom_tool_use_id",
        "model_request_start_id",
    )
    found: dict[str, Event] = {}
    for event in events:
        for link in links:
            target = event.get(link)
            if isinstance(target, str) and event.get("type") != "user.tool_confirmation":
                found.setdefault(target, event)
    return found


def _line(event: Event, began: datetime, answers: Mapping[str, Event]) -> Line | None:
    kind = str(event.get("type"))
    at = _at(event)
    at_ms = round((at - began).total_seconds() * 1000)
    if kind in _CALLS:
        answer = answers.get(str(event["id"]))
        ms = None if answer is None else round((_at(answer) - at).total_seconds() * 1000)
        failed = answer is not None and bool(answer.get("is_error"))
        detail = _short(_arguments(event.get("input")))
        where = _CALLS[kind].format(server=event.get("mcp_server_name", ""))
        verdict = "" if answer is not None else " (unanswered)"
        return Line(at_ms, HANDS, where, f"{event.get('name')} {detail}{verdict}", ms, failed)
    if kind == "span.model_request_start":
        answer = answers.get(str(event["id"]))
        ms = None if answer is None else round((_at(answer) - at).total_seconds() * 1000)
        failed = answer is not None and bool(answer.get("is_error"))
        return Line(at_ms, BRAIN, "model", "thinks", ms, failed)
    if kind in _SAID:
        who, where = _SAID[kind]
        return Line(at_ms, who, where, _short(text_of(event)))
    if kind == "session.status_idle":
        reason = event.get("stop_reason")
        why = reason.get("type") if isinstance(reason, Mapping) else reason
        return None if why == "requires_action" else Line(at_ms, CONTROL, "session", f"idle: {why}")
    if kind == "session.error":
        error = event.get("error")
        said = error.get("message") if isinstance(error, Mapping) else error
        return Line(at_ms, CONTROL, "session", f"error: {_short(str(said))}", failed=True)
    if kind in ("session.status_rescheduled", "session.status_terminated"):
        return Line(at_ms, CONTROL, "session", kind.removeprefix("session.status_"))
    return None


_CALLS: Final = {
    "agent.tool_use": "sandbox",
    "agent.mcp_tool_use": "mcp {server}",
    "agent.custom_tool_use": "client tool",
}
_SAID: Final = {
    "user.message": (CLIENT, "task"),
    "agent.message": (BRAIN, "says"),
    "user.interrupt": (CLIENT, "interrupt"),
    "user.tool_confirmation": (CLIENT, "confirms"),
    "system.message": (CLIENT, "system"),
}


def text_of(event: Event) -> str:
    """Return the text blocks of an event's content, joined."""
    content = event.get("content")
    if not isinstance(content, Sequence) or isinstance(content, str):
        return str(content or "")
    return "\n".join(str(block.get("text", "")) for block in content if isinstance(block, Mapping))


def _arguments(value: object) -> str:
    if not isinstance(value, Mapping):
        return ""
    if len(value) == 1:
        only = next(iter(value.values()))
        return only if isinstance(only, str) else json.dumps(only)
    return ", ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in value.items())


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= DETAIL_CHARS else flat[: DETAIL_CHARS - 1] + "…"


def _at(event: Event) -> datetime:
    at = event["processed_at"]
    return at if isinstance(at, datetime) else parse_rfc3339(str(at))
