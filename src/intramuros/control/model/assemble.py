"""Puts a streamed reply together: Messages API stream events in, one whole reply out. Pure.

Rules: no I/O, no clock; memory is bounded by ``MAX_REPLY_BYTES``; tool input is parsed once, when
its block is complete, so that a long input costs linear time.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

from intramuros.control.model.base import Delta, ModelReply, TextDelta, ThinkingStarted, Usage
from intramuros.protocol.resources.base import check_json

if TYPE_CHECKING:
    from pydantic import JsonValue

# The largest output of today's models is well under a megabyte; images are not output.
MAX_REPLY_BYTES: Final = 16 * 1024 * 1024

# A delta's type, the member that carries its text, and the block member it extends.
_TEXTS: Final = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
}
# What a block must say to be shown, stored and answered.
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("text",),
    "tool_use": ("id", "name"),
}
_COUNTERS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)


class BadStream(ValueError):
    """The provider's stream does not follow the Messages API: ask again."""


class Assembler:
    """Collects one reply. Feed every event; ask for :attr:`reply` at the end.

    Args:
        strict: whether a tool input that is no JSON object breaks the stream. Otherwise it is
            carried as the text it came as, so that its model can be told: one that ran into the
            limit of its output, or slipped, would do the same again.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self._strict = strict
        self._blocks: list[dict[str, object]] = []
        self._parts: list[dict[str, list[str]]] = []
        self._open: int | None = None
        self._counts: dict[str, int] = {}
        self._stop_reason: str | None = None
        self._started = self._finished = False
        self._size = 0

    def feed(self, event: Mapping[str, object]) -> Delta | None:
        """Take one stream event; return what of it is worth showing at once.

        Raises:
            BadStream: the event cannot stand here, or the reply is too large.
        """
        kind = event.get("type")
        if kind == "message_start":
            self._started = True
            self._count(_mapping(_mapping(event.get("message")).get("usage")))
            return None
        if not self._started or self._finished:
            raise BadStream(f"event {kind!r} outside a message")
        if kind == "content_block_start":
            return self._start(event)
        if kind == "content_block_delta":
            return self._extend(event)
        if kind == "content_block_stop":
            self._close(event)
        elif kind == "message_delta":
            reason = _mapping(event.get("delta")).get("stop_reason")
            self._stop_reason = reason if isinstance(reason, str) else self._stop_reason
            self._count(_mapping(event.get("usage")))
        elif kind == "message_stop":
            self._finished = True
        return None

    @property
    def reply(self) -> ModelReply:
        """The whole reply.

        Raises:
            BadStream: the stream broke off before its end.
        """
        if not self._finished or self._open is not None or self._stop_reason is None:
            raise BadStream("the stream broke off before the end of the message")
        return ModelReply(tuple(self._blocks), self._stop_reason, Usage(**self._counts))

    def _start(self, event: Mapping[str, object]) -> Delta | None:
        index = event.get("index")
        if self._open is not None or index != len(self._blocks):
            raise BadStream(f"content block {index!r} is out of order")
        block = dict(_mapping(event.get("content_block")))
        self._blocks.append(block)
        self._parts.append({})
        self._open = len(self._blocks) - 1
        if block.get("type") == "thinking":
            return ThinkingStarted(self._open)
        text = block.get("text")
        return TextDelta(self._open, text) if isinstance(text, str) and text else None

    def _extend(self, event: Mapping[str, object]) -> Delta | None:
        index = self._open
        if index is None or event.get("index") != index:
            raise BadStream(f"delta for content block {event.get('index')!r}, which is not open")
        delta = _mapping(event.get("delta"))
        kind = str(delta.get("type"))
        if kind == "input_json_delta":
            self._add("input", delta.get("partial_json"))
        elif kind == "citations_delta":
            listed = self._blocks[index].get("citations")
            known = listed if isinstance(listed, list) else []
            self._blocks[index]["citations"] = [*known, delta.get("citation")]
            self._grow(len(json.dumps(delta.get("citation"))))
        elif kind in _TEXTS:
            source, target = _TEXTS[kind]
            text = self._add(target, delta.get(source))
            return TextDelta(index, text) if kind == "text_delta" and text else None
        return None

    def _add(self, member: str, text: object) -> str:
        if self._open is None or not isinstance(text, str):
            raise BadStream(f"a delta of {member!r} without text")
        self._grow(len(text))
        self._parts[self._open].setdefault(member, []).append(text)
        return text

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_REPLY_BYTES:
            raise BadStream(f"the reply is larger than {MAX_REPLY_BYTES} bytes")

    def _close(self, event: Mapping[str, object]) -> None:
        index = self._open
        if index is None or event.get("index") != index:
            raise BadStream(f"content block {event.get('index')!r} ends, but is not open")
        block, parts = self._blocks[index], self._parts[index]
        for member, pieces in parts.items():
            whole = "".join(pieces)
            if member == "input":
                block["input"] = self._input(whole) if whole else block.get("input", {})
            else:
                block[member] = str(block.get(member) or "") + whole
        check_block(block)
        check_shape(block)
        self._parts[index] = {}
        self._open = None

    def _input(self, text: str) -> Mapping[str, object] | str:
        given = read_arguments(text)
        if self._strict and isinstance(given, str):
            raise BadStream("a tool's input is no JSON object")
        return given

    def _count(self, usage: Mapping[str, object]) -> None:
        for name in _COUNTERS:
            value = usage.get(name)
            # Counts in a message_delta are totals so far, not increments.
            if _count(value):
                self._counts[name] = value
        hour = _mapping(usage.get("cache_creation")).get("ephemeral_1h_input_tokens")
        if _count(hour):
            self._counts["cache_creation_1h_input_tokens"] = hour


def _count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def check_block(block: Mapping[str, object]) -> None:
    """Refuse what could be stored but never sent: no number, endless depth, half a character.

    Raises:
        BadStream: the block is no JSON.
    """
    try:
        check_json(cast("JsonValue", block))
        json.dumps(block, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadStream("a content block that is no JSON, such as an input with NaN") from error


def check_shape(block: Mapping[str, object]) -> None:
    """Refuse a block without what everybody who reads it relies on.

    Raises:
        BadStream: its type is unknown, or a member is missing.
    """
    kind = block.get("type")
    if not isinstance(kind, str):
        raise BadStream("a content block without a type")
    for member in _MEMBERS.get(kind, ()):
        if not isinstance(block.get(member), str):
            raise BadStream(f"a content block of type {kind!r} without {member!r}")


def read_arguments(text: str) -> Mapping[str, object] | str:
    """Return a call's input; as the text it came as where that is no JSON object."""
    if not text.strip():
        return {}
    try:
        value: Any = json.loads(text)
        if isinstance(value, dict):
            check_block(value)
            return value
    except (ValueError, RecursionError):
        pass
    return text
