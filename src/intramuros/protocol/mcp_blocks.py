"""MCP results in the contract's content blocks.

The contract knows text, image, document and search results (R107); MCP also has audio, embedded
resources and links, which become documents or a line of text that says what was left out.

Pure.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Final

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

Block = Mapping[str, object]


def blocks(result: CallToolResult) -> list[Block]:
    """Return a call's outcome; structured output stands in for absent content."""
    found = [_block(part) for part in result.content]
    if not found and result.structured_content is not None:
        return [_text(json.dumps(result.structured_content, ensure_ascii=False))]
    return found


def _block(part: ContentBlock) -> Block:
    match part:
        case TextContent():
            return _text(part.text)
        case ImageContent() if part.mime_type in IMAGE_TYPES and _is_base64(part.data):
            return _base64("image", part.mime_type, part.data)
        case ImageContent() | AudioContent():
            return _text(f"[{part.type} of type {part.mime_type} left out: not supported]")
        case EmbeddedResource():
            return _resource(part)
        case ResourceLink():
            return _text(f"[resource {part.name}: {part.uri}]")


def _resource(part: EmbeddedResource) -> Block:
    resource = part.resource
    if isinstance(resource, TextResourceContents):
        return _text(resource.text)
    kind = resource.mime_type or "application/octet-stream"
    if kind in IMAGE_TYPES and _is_base64(resource.blob):
        return _base64("image", kind, resource.blob)
    if kind == "application/pdf" and _is_base64(resource.blob):
        return _base64("document", kind, resource.blob)
    return _text(f"[resource {resource.uri} of type {kind} left out: not supported]")


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _base64(kind: str, media_type: str, data: str) -> Block:
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}


def _is_base64(data: str) -> bool:
    try:
        base64.b64decode(data, validate=True)
    except binascii.Error:
        return False
    return True
