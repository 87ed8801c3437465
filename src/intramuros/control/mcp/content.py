"""MCP results in the contract's content blocks. Pure.

The contract knows text, image, document and search results (R107); MCP also has audio, embedded
resources and links, which become documents or a line of text that says what was left out.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeVar, cast

from mcp_types import CallToolResult, Tool

from intramuros.control.mcp.base import McpResult, McpTool
from intramuros.protocol.mcp_blocks import blocks

T = TypeVar("T")

# Bare tool names are 1-128 characters (R096).
MAX_NAME: Final = 128
# A description is read by the model on every turn; longer ones are cut.
MAX_DESCRIPTION: Final = 8_192
# A shorter value would mask ordinary words.
_MIN_SECRET: Final = 8


def to_result(result: CallToolResult) -> McpResult:
    """Return a call's outcome as content blocks; structured output stands in for absent content."""
    said = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return McpResult(blocks(said), is_error=bool(result.is_error))


def to_tool(tool: Tool) -> McpTool | None:
    """Return the tool, or None when its name or schema cannot be offered to a model."""
    if not 1 <= len(tool.name) <= MAX_NAME or tool.input_schema.get("type") != "object":
        return None
    hints = tool.annotations
    return McpTool(
        name=tool.name,
        description=(tool.description or "")[:MAX_DESCRIPTION],
        input_schema=tool.input_schema,
        read_only=bool(hints and hints.read_only_hint),
        idempotent=bool(hints and (hints.idempotent_hint or hints.read_only_hint)),
    )


def mask(value: T, secrets: Collection[str]) -> T:
    """Return a JSON value in which no text holds one of the secrets."""
    shapes = {
        shape
        for secret in secrets
        if len(secret) >= _MIN_SECRET
        for shape in (secret, json.dumps(secret)[1:-1])
    }
    if not shapes:
        return value
    return cast("T", _masked(value, sorted(shapes, key=len, reverse=True)))


def _masked(value: Any, shapes: Collection[str]) -> Any:  # noqa: ANN401  any JSON
    if isinstance(value, str):
        for shape in shapes:
            value = value.replace(shape, "[masked credential]")
        return value
    if isinstance(value, Mapping):
        return {_masked(name, shapes): _masked(child, shapes) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(child, shapes) for child in value]
    return value
