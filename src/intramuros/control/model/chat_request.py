"""A request in the Messages API's shapes, written as Chat Completions take it. Pure.

What has no counterpart there is said in words or left out:

* the model's thinking goes back only to servers that ask for it, and only what such a server said:
  nobody but its provider can read what was signed;
* results of tools are text, so images and files of theirs follow in a message of the user, and that
  a call failed is said in front of its result;
* documents are text where they are text; PDFs go out as files to models that read them, and are
  named to the others.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

from intramuros.control.model.base import Block, ModelRequest
from intramuros.control.model.places import Place

Json = dict[str, Any]
LimitField = Literal["max_completion_tokens", "max_tokens"]

# What a function may be called there; the Messages API takes longer names.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Rough counts, where a server gives none.
CHARS_PER_TOKEN: Final = 4
MEDIA_TOKENS: Final = 1_600
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_FAILED: Final = "The call failed."
_NOTHING: Final = "(no output)"


@dataclass(frozen=True)
class Reader:
    """What a model can be shown.

    Args:
        model: its name at the provider.
        images, pdfs: whether it reads them.
        limit: the parameter that bounds the reply.
        counts: whether the server counts tokens in its streams.
        reasoning: the member in which it takes the model's reasoning back, if it does.
    """

    model: str
    images: bool = True
    pdfs: bool = False
    limit: LimitField = "max_completion_tokens"
    counts: bool = True
    reasoning: str | None = None


def body(request: ModelRequest, reader: Reader) -> Json:
    """Return the parameters of a streaming Chat Completions request."""
    parameters: Json = {
        "model": reader.model,
        "messages": list(_messages(request, reader)),
        reader.limit: request.max_tokens,
        "stream": True,
        **_options(request.options),
    }
    if reader.counts:
        parameters["stream_options"] = {"include_usage": True}
    if request.tools:
        parameters["tools"] = [_function(tool) for tool in request.tools]
    if request.must_call:
        named = {"name": function_name(request.must_call)}
        parameters["tool_choice"] = {"type": "function", "function": named}
    if request.effort:
        parameters["reasoning_effort"] = request.effort
    return parameters


def origin(request: ModelRequest, reader: Reader, place: Place) -> Place:
    """Return where in a request the image or file is that stands at a place of its Chat Completion.

    Images and files keep their order, whatever becomes of what is between them.

    Returns:
        The empty place where there is none.
    """
    written = list(_messages(request, reader))[: place[0] + 1]
    if len(written) <= place[0]:
        return ()
    parts = [message.get("content") for message in written]
    if len(place) > 1:
        *before, last = parts
        if not isinstance(last, list) or place[1] >= len(last) or not _is_media(last[place[1]]):
            return ()
        parts = [*before, last[: place[1] + 1]]
    number = sum(_is_media(part) for whole in parts if isinstance(whole, list) for part in whole)
    sources = list(_media_places(request, reader))
    return sources[number - 1] if 0 < number <= len(sources) else ()


def estimated_tokens(parameters: Json) -> int:
    """Return about how many tokens a request has, for servers that do not count.

    A token is about four characters; an image or a file is about as much as a page.
    """
    chars, rest = 0, [parameters["messages"], parameters.get("tools")]
    while rest:
        value: Any = rest.pop()
        if isinstance(value, str):
            chars += len(value)
        elif isinstance(value, dict):
            media = _is_media(value)
            chars += MEDIA_TOKENS * CHARS_PER_TOKEN if media else 0
            rest += [] if media else value.values()
        elif isinstance(value, list):
            rest += value
    return -(-chars // CHARS_PER_TOKEN)


def function_name(name: str) -> str:
    """Return the name under which a tool is offered: its own where that is allowed."""
    if _NAME.fullmatch(name):
        return name
    kept = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:51]
    return f"{kept}_{sha256(name.encode()).hexdigest()[:12]}"


def tool_names(request: ModelRequest) -> dict[str, str]:
    """Return the tools' own names by those under which they are offered."""
    return {function_name(str(tool["name"])): str(tool["name"]) for tool in request.tools}


def call_ids(request: ModelRequest) -> set[str]:
    """Return the ids of all calls that the conversation holds."""
    return {
        str(block["id"])
        for message in request.messages
        for block in _blocks(message)
        if block["type"] == "tool_use"
    }


def _is_media(part: Mapping[str, object]) -> bool:
    return part.get("type") in {"image_url", "file"}


def _media_places(request: ModelRequest, reader: Reader) -> Iterable[Place]:
    """Yield where the blocks are that are shown as images or files."""

    def shown(block: Block) -> bool:
        return any(map(_is_media, _parts(block, reader)))

    for index, message in enumerate(request.messages):
        if message["role"] != "user":
            continue
        for number, block in enumerate(_blocks(message)):
            if block["type"] != "tool_result":
                yield from [(index, number)] if shown(block) else []
                continue
            for place, inner in enumerate(_blocks(block)):
                yield from [(index, number, place)] if shown(inner) else []


def _messages(request: ModelRequest, reader: Reader) -> Iterable[Json]:
    if request.system:
        yield {"role": "system", "content": request.system}
    for message in request.messages:
        blocks = _blocks(message)
        if message["role"] == "assistant":
            yield from _said_by_model(blocks, reader)
        elif message["role"] == "system":
            yield {"role": "system", "content": _text(blocks)}
        else:
            yield from _said_by_user(blocks, reader)


def _said_by_model(blocks: Sequence[Block], reader: Reader) -> Iterable[Json]:
    text = "".join(str(block["text"]) for block in blocks if block["type"] == "text")
    calls = [_call(block) for block in blocks if block["type"] == "tool_use"]
    if text or calls:
        said: Json = {"role": "assistant", "content": text or None}
        thought = "".join(str(b["thinking"]) for b in blocks if is_unsigned(b))
        if thought and reader.reasoning:
            said[reader.reasoning] = thought
        yield {**said, "tool_calls": calls} if calls else said


def _said_by_user(blocks: Sequence[Block], reader: Reader) -> Iterable[Json]:
    """Yield the results, which must stand right behind their calls, then everything else."""
    parts: list[Json] = []
    for block in blocks:
        if block["type"] != "tool_result":
            parts += _parts(block, reader)
            continue
        shown = [part for inner in _blocks(block) for part in _parts(inner, reader)]
        texts = [_FAILED] if block.get("is_error") else []
        texts += [part["text"] for part in shown if part["type"] == "text"]
        others = [part for part in shown if part["type"] != "text"]
        if others:
            texts.append("(What this call returned besides text follows in the next message.)")
            parts.append(_as_text(f"Returned by the call {block['tool_use_id']}:"))
            parts += others
        yield {
            "role": "tool",
            "tool_call_id": block["tool_use_id"],
            "content": "\n".join(texts) or _NOTHING,
        }
    if parts:
        texts_only = all(part["type"] == "text" for part in parts)
        yield {
            "role": "user",
            # Many servers take nothing but a string for models that read only text.
            "content": "\n\n".join(part["text"] for part in parts) if texts_only else parts,
        }


def _parts(block: Block, reader: Reader) -> list[Json]:
    kind = block["type"]
    if kind == "text":
        return [_as_text(str(block["text"]))]
    if kind == "image":
        return [_image(_mapping(block.get("source")), reader)]
    if kind == "document":
        return _document(block, reader)
    if kind == "search_result":
        text = f"{block.get('title')} ({block.get('source')})\n{_text(_blocks(block))}"
        return [_as_text(text)]
    return [_as_text(f"[{kind}: cannot be shown to this model]")]


def _image(source: Block, reader: Reader) -> Json:
    if not reader.images:
        return _as_text("[an image, which this model cannot see]")
    if source.get("type") == "url":
        url = str(source["url"])
    elif source.get("type") == "base64":
        url = f"data:{source['media_type']};base64,{source['data']}"
    else:
        return _as_text("[an image that cannot be shown to this model]")
    return {"type": "image_url", "image_url": {"url": url}}


def _document(block: Block, reader: Reader) -> list[Json]:
    source = _mapping(block.get("source"))
    title = str(block.get("title") or "document")
    head = f"Document: {title}"
    if block.get("context"):
        head += f"\nContext: {block['context']}"
    if source.get("type") == "text":
        return [_as_text(f"{head}\n\n{source['data']}")]
    pdf = source.get("type") == "base64" and source.get("media_type") == "application/pdf"
    if pdf and reader.pdfs:
        name = title if title.lower().endswith(".pdf") else f"{title}.pdf"
        data = f"data:application/pdf;base64,{source['data']}"
        return [_as_text(head), {"type": "file", "file": {"filename": name, "file_data": data}}]
    where = f" at {source['url']}" if source.get("type") == "url" else ""
    return [_as_text(f"[{head}{where}: this model cannot read it]")]


def _call(block: Block) -> Json:
    arguments = json.dumps(block["input"], ensure_ascii=False, separators=(",", ":"))
    name = function_name(str(block["name"]))
    return {
        "id": block["id"],
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _function(tool: Block) -> Json:
    defined: Json = {"name": function_name(str(tool["name"]))}
    if tool.get("description"):
        defined["description"] = tool["description"]
    defined["parameters"] = tool.get("input_schema") or {"type": "object", "properties": {}}
    return {"type": "function", "function": defined}


def _options(options: Mapping[str, object]) -> Json:
    """Return a caller's own parameters in the words of the protocol."""
    taken: Json = {name: options[name] for name in ("temperature", "top_p") if name in options}
    if options.get("stop_sequences"):
        taken["stop"] = options["stop_sequences"]
    choice = _mapping(options.get("tool_choice"))
    if choice.get("type") == "tool":
        called = {"name": function_name(str(choice.get("name")))}
        taken["tool_choice"] = {"type": "function", "function": called}
    elif choice.get("type") in _CHOICES:
        taken["tool_choice"] = _CHOICES[str(choice["type"])]
    if choice.get("disable_parallel_tool_use") is True:
        taken["parallel_tool_calls"] = False
    shape = _mapping(_mapping(options.get("output_config")).get("format"))
    if shape.get("type") == "json_schema":
        schema = {"name": "output", "schema": shape.get("schema"), "strict": True}
        taken["response_format"] = {"type": "json_schema", "json_schema": schema}
    return taken


def is_unsigned(block: object) -> bool:
    """Return whether a block is thinking that only the server that said it knows."""
    kind = _mapping(block).get("type")
    return kind == "thinking" and not _mapping(block).get("signature")


def _text(blocks: Sequence[Block]) -> str:
    return "\n\n".join(str(block["text"]) for block in blocks if block["type"] == "text")


def _as_text(text: str) -> Json:
    return {"type": "text", "text": text}


def _blocks(message: Block) -> Sequence[Block]:
    content = message.get("content") or ()
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, Sequence) else ()


def _mapping(value: object) -> Block:
    return value if isinstance(value, Mapping) else {}
