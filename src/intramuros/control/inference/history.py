"""MCP blocks of the Messages API to plain tool blocks and back. Pure.

The API shows a server-side MCP call and its result as two blocks inside one assistant message. A
provider that does not know the server is told the same as a plain tool call and, in the next user
message, its result.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from intramuros.control.session.toolset import model_name

Block = Mapping[str, Any]

_MCP_ID: Final = "mcptoolu_"
_TOOL_ID: Final = "toolu_"


def to_provider(messages: Sequence[Any], served: Collection[str]) -> list[Any]:
    """Return messages in which calls to the ``served`` servers are plain tool calls.

    Anything that is not such a block stays as it is, malformed or not: the provider judges it.
    """
    out: list[Any] = []
    results: list[Block] = []
    for message in messages:
        if not isinstance(message, Mapping):
            out.append(message)
            continue
        content = message.get("content")
        if message.get("role") == "assistant" and isinstance(content, list):
            out += _before_assistant(results)
            *whole, last = _pieces(content, served)
            for said, answered in whole:
                out.append({**message, "content": said})
                out.append({"role": "user", "content": answered})
            said, results = last
            if said:
                out.append({**message, "content": said})
        elif results and message.get("role") == "user":
            out.append({**message, "content": [*results, *_blocks(content)]})
            results = []
        else:
            out += _before_assistant(results)
            results = []
            out.append(message)
    return out + _before_assistant(results)


def as_mcp_use(block: Block, server: str, tool: str) -> dict[str, Any]:
    """Return a tool call as the caller sees it."""
    return {
        "type": "mcp_tool_use",
        "id": mcp_id(str(block["id"])),
        "name": tool,
        "server_name": server,
        "input": block.get("input") or {},
    }


def as_mcp_result(call_id: str, content: Sequence[Block], *, is_error: bool) -> dict[str, Any]:
    """Return a result as the caller sees it: text only, as the API has it.

    Args:
        call_id: the provider's id of the call.
    """
    return {
        "type": "mcp_tool_result",
        "tool_use_id": mcp_id(call_id),
        "is_error": is_error,
        "content": [{"type": "text", "text": _shown(part), "citations": None} for part in content],
    }


def as_tool_result(call_id: str, content: Sequence[Block], *, is_error: bool) -> dict[str, Any]:
    """Return a result as the provider sees it."""
    return {
        "type": "tool_result",
        "tool_use_id": call_id,
        "is_error": is_error,
        "content": [dict(part) for part in content],
    }


def mcp_id(call_id: str) -> str:
    """Return the caller's id of a call from the provider's."""
    return _MCP_ID + call_id.removeprefix(_TOOL_ID)


def _pieces(
    content: Sequence[Any], served: Collection[str]
) -> Iterator[tuple[list[Any], list[Block]]]:
    """Yield what was said up to a result, and the results; the last piece may lack either."""
    # Ids are compared as text: callers may send anything.
    ids = {
        str(block.get("id"))
        for block in content
        if _is(block, "mcp_tool_use") and str(block.get("server_name")) in served
    }
    said: list[Any] = []
    results: list[Block] = []
    for block in content:
        if _is(block, "mcp_tool_result") and str(block.get("tool_use_id")) in ids:
            results.append(_result(block))
            continue
        if results:
            yield said, results
            said, results = [], []
        said.append(
            _use(block) if _is(block, "mcp_tool_use") and str(block.get("id")) in ids else block
        )
    yield said, results


def _use(block: Block) -> Block:
    kept = {name: block[name] for name in ("input", "cache_control") if name in block}
    name = model_name(str(block.get("server_name")), str(block.get("name")))
    return {"type": "tool_use", "id": _tool_id(block.get("id")), "name": name, **kept}


def _result(block: Block) -> Block:
    kept = {name: block[name] for name in ("is_error", "cache_control") if name in block}
    content = block.get("content") or []
    if isinstance(content, list):
        content = [
            {k: v for k, v in part.items() if v is not None} if isinstance(part, Mapping) else part
            for part in content
        ]
    tool_use_id = _tool_id(block.get("tool_use_id"))
    return {"type": "tool_result", "tool_use_id": tool_use_id, "content": content, **kept}


def _before_assistant(results: Sequence[Block]) -> list[Any]:
    return [{"role": "user", "content": list(results)}] if results else []


def _blocks(content: object) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, list) else []


def _tool_id(mcp: object) -> str:
    return _TOOL_ID + str(mcp).removeprefix(_MCP_ID)


def _is(block: object, kind: str) -> bool:
    return isinstance(block, Mapping) and block.get("type") == kind


def _shown(part: Block) -> str:
    if part.get("type") == "text":
        return str(part.get("text"))
    source = part.get("source")
    kind = source.get("media_type") if isinstance(source, Mapping) else None
    return f"[{part.get('type')} of type {kind}: seen by the model, not shown here]"
