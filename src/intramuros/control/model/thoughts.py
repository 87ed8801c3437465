"""What models thought in a conversation, and the conversation without it. Pure.

Thinking is signed by the model that thought it. Another model may pass it over, or refuse the
request for it; no provider takes a part of the thoughts of one reply, so they go together.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Json = Mapping[str, Any]

KINDS: Final = frozenset({"thinking", "redacted_thinking"})


def thoughts(messages: Sequence[Json]) -> Iterator[Json]:
    """Yield the blocks that are thoughts."""
    for message in messages:
        yield from (block for block in _blocks(message) if block["type"] in KINDS)


def thoughtless(message: Json) -> Json | None:
    """Return a message without thoughts: the same one if it has none, None if nothing is left."""
    blocks = _blocks(message)
    rest = [block for block in blocks if block["type"] not in KINDS]
    if len(rest) == len(blocks):
        return message
    return {**message, "content": rest} if rest else None


def without_thoughts(messages: Sequence[Json]) -> list[Json]:
    """Return a conversation without thoughts; a message of nothing else is left out."""
    return [rest for message in messages if (rest := thoughtless(message)) is not None]


def _blocks(message: Json) -> Sequence[Json]:
    content = message.get("content")
    said = message["role"] == "assistant" and isinstance(content, list | tuple)
    return content if said else ()  # type: ignore[return-value]  # a sequence, as was asked
