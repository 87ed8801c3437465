"""A caller's Messages request as adapters take it; what they cannot do is refused. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from intramuros.control.model.base import ModelRequest
from intramuros.kernel.errors import InvalidRequest

Json = Mapping[str, Any]

# What a block must hold, as text or as any JSON value.
_TEXTS: Final = {
    "text": ("text",),
    "thinking": ("thinking",),
    "tool_use": ("id", "name"),
    "tool_result": ("tool_use_id",),
}
_SOURCES: Final = {"url": ("url",), "base64": ("media_type", "data"), "text": ("data",)}
# Passed on in the protocol's own words (``chat_request.py``).
_OPTIONS: Final = ("temperature", "top_p", "stop_sequences", "tool_choice", "output_config")
# These change what the reply is, and have no counterpart.
_REFUSED: Final = ("mcp_servers", "container")
MAX_DEPTH: Final = 3


def asked(body: Json) -> ModelRequest:
    """Return the request.

    Raises:
        InvalidRequest: naming what is malformed, or what only the Messages API itself can do.
    """
    for name in _REFUSED:
        if body.get(name):
            raise InvalidRequest(f"{name}: the provider of this model has no such thing")
    limit = body.get("max_tokens")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InvalidRequest("max_tokens: expected a positive number")
    settings = body.get("output_config")
    effort = settings.get("effort") if isinstance(settings, Mapping) else None
    return ModelRequest(
        model=str(body["model"]),
        messages=list(_messages(body.get("messages"))),
        system=_system(body.get("system")),
        tools=list(_tools(body.get("tools") or [])),
        max_tokens=limit,
        effort=effort if isinstance(effort, str) else None,
        options={name: body[name] for name in _OPTIONS if body.get(name) is not None},
    )


def _messages(sent: object) -> Iterator[Json]:
    if not isinstance(sent, list) or not sent:
        raise InvalidRequest("messages: expected a list of messages")
    for index, message in enumerate(sent):
        place = f"messages.{index}"
        if not isinstance(message, dict) or message.get("role") not in {
            "user",
            "assistant",
            "system",
        }:
            raise InvalidRequest(f"{place}.role: expected user, assistant or system")
        content = message.get("content")
        if isinstance(content, str):
            yield {**message, "content": [{"type": "text", "text": content}]}
        else:
            yield {**message, "content": _blocks(content, f"{place}.content")}


def _blocks(content: object, place: str, depth: int = 0) -> list[Json]:
    if not isinstance(content, list) or depth > MAX_DEPTH:
        raise InvalidRequest(f"{place}: expected text or a list of blocks")
    for index, block in enumerate(content):
        _check(block, f"{place}.{index}", depth)
    return content


def _check(block: object, place: str, depth: int) -> None:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise InvalidRequest(f"{place}.type: expected the type of a block")
    kind = block["type"]
    for name in _TEXTS.get(kind, ()):
        if not isinstance(block.get(name), str):
            raise InvalidRequest(f"{place}.{name}: expected text")
    if kind == "tool_use" and not isinstance(block.get("input"), dict):
        raise InvalidRequest(f"{place}.input: expected an object")
    if kind in {"image", "document"}:
        _check_source(block.get("source"), f"{place}.source")
    inner = block.get("content")
    if inner is not None and not isinstance(inner, str):
        _blocks(inner, f"{place}.content", depth + 1)


def _check_source(source: object, place: str) -> None:
    if not isinstance(source, dict):
        raise InvalidRequest(f"{place}: expected an object")
    for name in _SOURCES.get(str(source.get("type")), ()):
        if not isinstance(source.get(name), str):
            raise InvalidRequest(f"{place}.{name}: expected text")


def _system(sent: object) -> str | None:
    if sent is None or isinstance(sent, str):
        return sent or None
    blocks = _blocks(sent, "system")
    if any(block["type"] != "text" for block in blocks):
        raise InvalidRequest("system: expected blocks of text")
    return "\n\n".join(str(block["text"]) for block in blocks) or None


def _tools(sent: object) -> Iterator[Json]:
    if not isinstance(sent, list):
        raise InvalidRequest("tools: expected a list")
    for index, tool in enumerate(sent):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise InvalidRequest(f"tools.{index}.name: expected text")
        if tool.get("type") not in {None, "custom"}:
            raise InvalidRequest(
                f"tools.{index}.type: the provider of this model takes custom tools only"
            )
        if not isinstance(tool.get("input_schema") or {}, dict):
            raise InvalidRequest(f"tools.{index}.input_schema: expected an object")
        yield tool
