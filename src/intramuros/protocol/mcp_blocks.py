"""MCP results, as JSON, in the contract's content blocks.

The contract knows text, image, document and search results (R107); MCP also has audio, embedded
resources and links, which become documents or a line of text that says what was left out.

Pure.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

Block = Mapping[str, object]
Json = Mapping[str, Any]


def blocks(result: Json) -> list[Block]:
    """Return the outcome of a call; structured output stands in for absent content.

    Args:
        result: of ``tools/call``, as it was on the wire.
    """
    found = [block for part in result.get("content") or () if (block := _block(part)) is not None]
    structured = result.get("structuredContent")
    if not found and structured is not None:
        return [_text(json.dumps(structured, ensure_ascii=False))]
    return found


def _block(part: Json) -> Block | None:
    kind = part.get("type")
    if kind == "text":
        return _text(str(part.get("text", "")))
    if kind in ("image", "audio"):
        media, data = part.get("mimeType"), part.get("data")
        if kind == "image" and media in IMAGE_TYPES and _is_base64(data):
            return _base64("image", str(media), str(data))
        return _text(f"[{kind} of type {media} left out: not supported]")
    if kind == "resource":
        return _resource(part.get("resource") or {})
    if kind == "resource_link":
        return _text(f"[resource {part.get('name')}: {part.get('uri')}]")
    return None


def _resource(resource: Json) -> Block:
    if isinstance(resource.get("text"), str):
        return _text(resource["text"])
    kind, blob = resource.get("mimeType") or "application/octet-stream", resource.get("blob")
    if kind in IMAGE_TYPES and _is_base64(blob):
        return _base64("image", kind, str(blob))
    if kind == "application/pdf" and _is_base64(blob):
        return _base64("document", kind, str(blob))
    return _text(f"[resource {resource.get('uri')} of type {kind} left out: not supported]")


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _base64(kind: str, media_type: str, data: str) -> Block:
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}


def _is_base64(data: object) -> bool:
    try:
        base64.b64decode(data if isinstance(data, str) else "%", validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
