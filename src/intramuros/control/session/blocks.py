"""The text in content blocks, whatever kind of block it is in. Pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Block = Mapping[str, Any]


def texts(block: Block) -> Iterator[str]:
    """Yield the texts that a model reads in a block; none of an image or a PDF."""
    source = block.get("source")
    match block.get("type"):
        case "text":
            yield str(block.get("text", ""))
        case "document" if isinstance(source, Mapping) and source.get("type") == "text":
            yield str(source.get("data", ""))
        case "tool_result" | "search_result":
            for inner in block.get("content") or ():
                yield from texts(inner)


def changed(block: Block, change: Callable[[str], str]) -> dict[str, Any]:
    """Return a block whose texts are changed."""
    source = block.get("source")
    match block.get("type"):
        case "text":
            return {**block, "text": change(str(block.get("text", "")))}
        case "document" if isinstance(source, Mapping) and source.get("type") == "text":
            return {**block, "source": {**source, "data": change(str(source.get("data", "")))}}
        case "tool_result" | "search_result" if block.get("content"):
            return {**block, "content": [changed(inner, change) for inner in block["content"]]}
        case _:
            return dict(block)


def told(block: Block) -> str:
    """Return a block as text; what has none is named by its kind."""
    found = list(texts(block))
    if not found:
        return f"[{block.get('type')}]"
    page = block.get("source") if block.get("type") == "search_result" else block.get("context")
    return "\n".join([str(page), *found] if page else found)
