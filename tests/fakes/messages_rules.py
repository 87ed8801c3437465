"""What the Messages API demands of a request, as a checker."""

import re
from collections.abc import Sequence
from typing import Any


def check_messages(messages: Sequence[Any]) -> None:
    """Fail unless the API would take these messages."""
    assert messages, "no messages"
    assert messages[0]["role"] == "user"
    assert messages[-1]["role"] in ("user", "system")
    calls = [b for m in messages for b in m["content"] if b["type"] == "tool_use"]
    assert len({block["id"] for block in calls}) == len(calls), "tool_use ids must be unique"
    for block in calls:
        assert re.fullmatch("[a-zA-Z0-9_-]+", block["id"])
        assert re.fullmatch("[a-zA-Z0-9_-]{1,128}", block["name"])
        assert isinstance(block["input"], dict)
    previous: Any = None
    for message in messages:
        role, content = message["role"], message["content"]
        assert content, "empty message"
        for block in content:
            assert block["type"] != "text" or block["text"].strip(), "empty text block"
        if previous is not None:
            allowed = {
                "user": ("assistant",),
                "assistant": ("user", "system"),
                "system": ("user",),
            }
            assert previous["role"] in allowed[role], f"{role} after {previous['role']}"
        asked = _ids(previous, "tool_use", "id") if role == "user" and previous else []
        if role != "system":
            assert _ids(message, "tool_result", "tool_use_id") == asked
        previous = message
    assert not _ids(messages[-1], "tool_use", "id")
    users = [message for message in messages if message["role"] == "user"]
    marked = [any("cache_control" in block for block in m["content"]) for m in users]
    # What the last request left in the provider's cache, and what this one leaves.
    assert marked == [False] * (len(users) - 2) + [True] * min(2, len(users))


def _ids(message: Any, kind: str, member: str) -> list[str]:
    return [block[member] for block in message["content"] if block["type"] == kind]
