"""Models as sources of a message's stream: the provider, and scripts."""

import json
from collections.abc import Mapping
from typing import Any

import anyio
import httpx2
from anthropic import AsyncStream
from pydantic import TypeAdapter, ValidationError

from intramuros.control.inference.rounds import Emit, Json
from intramuros.control.model.base import Delta, ModelError, ModelReply, ModelRequest, TextDelta
from intramuros.control.model.scripted import ScriptedModel
from intramuros.control.model.upstream import Upstream, broken
from intramuros.kernel.errors import InvalidRequest, NotFound, Unavailable
from intramuros.kernel.ids import IdFactory

_MESSAGES: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[dict[str, Any]])


class ProviderSource:
    """A :class:`~intramuros.control.inference.rounds.Source` over the provider."""

    def __init__(self, upstream: Upstream, headers: Mapping[str, str]) -> None:
        self._upstream = upstream
        self._headers = headers

    async def run(self, body: Json, emit: Emit) -> None:
        """Stream one request.

        Raises:
            DomainError: the provider refused, failed or broke off.
        """
        data = json.dumps({**body, "stream": True}, ensure_ascii=False).encode()
        try:
            async with self._upstream.send("/v1/messages", data, self._headers) as response:
                async for sse in AsyncStream.raw_events(response):
                    if not sse.data:
                        continue
                    event = json.loads(sse.data)
                    if event.get("type") == "error":
                        raise broken(event.get("error") or {})
                    await emit(event)
        except (httpx2.HTTPError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise Unavailable("the model provider's answer broke off") from error


class ScriptedSource:
    """A :class:`~intramuros.control.inference.rounds.Source` that plays scripts."""

    def __init__(self, model: ScriptedModel, ids: IdFactory) -> None:
        self._model = model
        self._ids = ids

    async def run(self, body: Json, emit: Emit) -> None:
        """Play the step that the conversation has come to, at the script's pace.

        Raises:
            NotFound: there is no such script.
            InvalidRequest: the request is not one that a script can read.
        """
        request = _request(body)
        send, receive = anyio.create_memory_object_stream[Delta](float("inf"))
        stream = _Frames(emit)
        await stream.start(self._ids.new("msg"), request.model)
        replies: list[ModelReply] = []
        failed: list[ModelError] = []

        async def play() -> None:
            with send:
                try:
                    replies.append(await self._model.run(request, send.send_nowait))
                except ModelError as error:
                    failed.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(play)
            with receive:
                async for delta in receive:
                    if isinstance(delta, TextDelta):
                        await stream.text(delta.text)
        if failed:
            raise NotFound(failed[0].message)
        await stream.finish(replies[0])


class _Frames:
    """The events of a scripted reply."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._open = False

    async def start(self, message_id: str, model: str) -> None:
        message: dict[str, object] = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        await self._emit({"type": "message_start", "message": message})

    async def text(self, text: str) -> None:
        if not self._open:
            self._open = True
            await self._begin(0, {"type": "text", "text": "", "citations": None})
        delta = {"type": "text_delta", "text": text}
        await self._emit({"type": "content_block_delta", "index": 0, "delta": delta})

    async def finish(self, reply: ModelReply) -> None:
        for index, block in enumerate(reply.content):
            if block["type"] == "tool_use":
                await self._begin(index, {**block, "input": {}})
                delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
                await self._emit({"type": "content_block_delta", "index": index, "delta": delta})
            await self._emit({"type": "content_block_stop", "index": index})
        end = {"stop_reason": reply.stop_reason, "stop_sequence": None}
        await self._emit({"type": "message_delta", "delta": end, "usage": {"output_tokens": 0}})
        await self._emit({"type": "message_stop"})

    async def _begin(self, index: int, block: Json) -> None:
        await self._emit({"type": "content_block_start", "index": index, "content_block": block})


def _request(body: Json) -> ModelRequest:
    """Return the request in the shape that scripts read: content as blocks."""
    try:
        messages = _MESSAGES.validate_python(body.get("messages"))
        tools = _MESSAGES.validate_python(body.get("tools") or [])
    except ValidationError:
        raise InvalidRequest("messages, tools: expected lists of objects") from None
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            message["content"] = [{"type": "text", "text": content}]
        elif not isinstance(content, list) or not all(isinstance(b, dict) for b in content):
            raise InvalidRequest("messages.content: expected text or a list of blocks")
    return ModelRequest(str(body["model"]), messages, tools=tools)
