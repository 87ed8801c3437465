"""From a sandbox's answer to the content blocks the model reads. Pure; answers are foreign data."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intramuros.execution.tools.calls import Call

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_IMAGES = {"image/png", "image/jpeg", "image/gif", "image/webp"}
_PDF = "application/pdf"
_EMPTY = "(no output)"
"""What the official worker sends for nothing, since an empty text block is not accepted."""


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """Result of one tool call: content blocks as the wire wants them (text, image, document)."""

    content: list[dict[str, Any]]
    is_error: bool = False

    @classmethod
    def text(cls, text: str, *, is_error: bool = False) -> "ToolOutcome":
        """Return an outcome of one text block; an empty text reads ``(no output)``."""
        return cls([{"type": "text", "text": text or _EMPTY}], is_error)


def decode_answer(call: Call, answer: Mapping[str, bytes]) -> ToolOutcome:
    """Return the outcome of a call from the fields its sandbox answered."""
    if "error" in answer:
        return ToolOutcome.text(_text(answer["error"]), is_error=True)
    if call.op == "restart":
        return ToolOutcome.text("bash session restarted")
    if call.op == "bash":
        return _shell(call, answer)
    if "media" in answer:
        return _media(_text(answer["media"]), answer.get("data", b""))
    return ToolOutcome.text(_text(answer.get("text", b"")))


def _shell(call: Call, answer: Mapping[str, bytes]) -> ToolOutcome:
    """Contract 23.6 to 23.8: merged output only, escapes removed, the tail of what is long."""
    state = answer.get("state", b"died")
    if state == b"timeout":
        message = f"bash: bash command timed out after {call.timeout_ms / 1000.0}s"
        return ToolOutcome.text(message, is_error=True)
    text = _ANSI.sub("", _text(answer.get("output", b"")))
    if state != b"done":
        return ToolOutcome.text(text.strip(), is_error=True)
    text = text.rstrip("\n")
    if answer.get("truncated"):
        text = "[output truncated]\n" + text
    return ToolOutcome.text(text, is_error=answer.get("code") != b"0")


def _media(media: str, data: bytes) -> ToolOutcome:
    kind = "image" if media in _IMAGES else "document" if media == _PDF else None
    if kind is None:
        return ToolOutcome.text(f"read: unexpected media type {media!r}", is_error=True)
    encoded = base64.standard_b64encode(data).decode("ascii")
    source = {"type": "base64", "media_type": media, "data": encoded}
    return ToolOutcome([{"type": kind, "source": source}])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
