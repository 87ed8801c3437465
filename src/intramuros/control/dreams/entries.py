"""Memories and transcripts as the model of a dream reads them: one JSON object a line. Pure.

What sessions and stores hold was written by others, so nothing in it may look like anything but
data: JSON keeps every text on its own line and inside its own quotes.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from intramuros.control.store.records import Record
from intramuros.kernel.timing import rfc3339

# What is read of a session: what was said and done, not how the server got along.
READ: Final[Mapping[str, str]] = {
    "user.message": "user",
    "system.message": "operator",
    "agent.message": "agent",
    "agent.tool_use": "agent",
    "agent.mcp_tool_use": "agent",
    "agent.custom_tool_use": "agent",
    "agent.tool_result": "tool",
    "agent.mcp_tool_result": "tool",
    "user.tool_result": "tool",
    "user.custom_tool_result": "tool",
    "user.tool_confirmation": "user",
    "session.error": "server",
}
# One event shows at most this much: the beginning and the end of what is longer.
EVENT_CHARS: Final = 12_000
_TAIL_CHARS: Final = 2_000


def memory(path: str, text: str, room: int) -> tuple[str, bool]:
    """Return a memory's line, and whether it holds the whole text.

    Args:
        room: the longest line that still fits somewhere.
    """
    whole = _line({"memory": path, "text": text})
    if len(whole) <= room:
        return whole, True
    note = f"too long to show here ({len(text)} characters); call read_memory to see it"
    return _line({"memory": path, "note": note}), False


def session(session_id: str, title: str | None) -> str:
    """Return the line above the events of a session."""
    return _line({"session": session_id, "title": (title or "")[:500]})


def event(record: Record) -> str:
    """Return an event's line; its type is one of :data:`READ`."""
    body = record.body
    shown: dict[str, Any] = {
        "event": record.id,
        "at": rfc3339(record.at)[:19] + "Z",
        "from": READ[record.type],
    }
    if "input" in body:
        shown["calls"] = str(body.get("name", ""))
        shown["with"] = _cut(json.dumps(body["input"], ensure_ascii=False))
    elif record.type == "session.error":
        shown["error"] = _cut(str(cast("Mapping[str, Any]", body["error"]).get("message", "")))
    elif record.type == "user.tool_confirmation":
        shown["answer"] = str(body.get("result", ""))
        shown["text"] = _cut(str(body.get("deny_message") or ""))
    else:
        if body.get("is_error"):
            shown["failed"] = True
        shown["text"] = _cut(_text(cast("Sequence[Mapping[str, Any]]", body.get("content") or ())))
    return _line(shown)


def _text(content: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of content blocks; what is no text is only named."""
    return "\n".join(
        str(block["text"]) if block.get("type") == "text" else f"[{block.get('type')}]"
        for block in content
    )


def _cut(text: str) -> str:
    if len(text) <= EVENT_CHARS:
        return text
    left_out = len(text) - EVENT_CHARS
    head = EVENT_CHARS - _TAIL_CHARS
    return f"{text[:head]}\n[{left_out} characters left out]\n{text[-_TAIL_CHARS:]}"


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
