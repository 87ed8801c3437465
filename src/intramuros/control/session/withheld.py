"""Blocks that a provider refused, and the words that stand for them. Pure.

A block is known by a digest of its content: a fact in the log stays true however the conversation
around the block is put together. Thoughts are withheld all at once: no provider says which of them
it would take, and none takes a part of those of one message.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

Block = dict[str, Any]

# What may be kept from a model. Words never are, and calls need their results.
KINDS: Final = frozenset({"image", "document", "search_result"})
_NAMES: Final = {"image": "An image", "document": "A document", "search_result": "A search result"}
# Stands among the digests for all that the model thought until then.
THOUGHTS: Final = "thinking"
# Of a title, a file's name or an address.
_NAME_CHARS: Final = 200
_WHY_CHARS: Final = 600


def digest(block: Mapping[str, Any]) -> str:
    """Return what a block is known by; a cache breakpoint on it makes no difference."""
    content = {name: value for name, value in block.items() if name != "cache_control"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def media(blocks: object) -> Iterator[Mapping[str, Any]]:
    """Yield the blocks that may be withheld, those of tool results in their place."""
    if not isinstance(blocks, list | tuple):
        return
    for block in blocks:
        if block["type"] in KINDS:
            yield block
        elif block["type"] == "tool_result":
            yield from media(block.get("content"))


def note(block: Mapping[str, Any], why: str) -> Block:
    """Return the text that stands for a block.

    Args:
        why: the provider's own words.
    """
    name = _NAMES[str(block["type"])]
    text = (
        f"[{name}{_called(block)} was here. It is withheld, because the model provider refused it: "
        f"{why[:_WHY_CHARS]}. Go on without it; the same content would be refused again.]"
    )
    return {"type": "text", "text": text}


def changed(
    blocks: Sequence[Mapping[str, Any]], change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> list[Block]:
    """Return blocks after a change of each that holds no others, those of tool results too."""
    made: list[Block] = []
    for block in blocks:
        inner = block.get("content")
        if block["type"] == "tool_result" and isinstance(inner, list | tuple):
            inside = changed(inner, change)
            same = all(new is old for new, old in zip(inside, inner, strict=True))
            block = block if same else {**block, "content": inside}
        else:
            block = change(block)
        made.append(block)  # type: ignore[arg-type]  # blocks are dicts that nobody changes
    return made


def _called(block: Mapping[str, Any]) -> str:
    source = block.get("source")
    known = [block.get("title")]
    if isinstance(source, Mapping):
        known += [source.get("media_type"), source.get("file_id"), source.get("url")]
    else:
        known.append(source)
    said = [str(part)[:_NAME_CHARS] for part in known if part]
    return f" ({', '.join(said)})" if said else ""
