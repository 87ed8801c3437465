"""Models of the providers that the models file names, as sources of a message's stream.

A provider of the Messages API gets the request as it is. Behind Chat Completions the request is
translated, and the reply is told in the API's events; what such a server cannot do is refused.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio

from intramuros.control.inference.asked import asked
from intramuros.control.inference.rounds import Emit, Json
from intramuros.control.model.anthropic import AnthropicModel
from intramuros.control.model.base import (
    Delta,
    Failure,
    Model,
    ModelError,
    ModelReply,
    TextDelta,
    ThinkingDelta,
)
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.model.registry import fitting
from intramuros.kernel.errors import (
    DomainError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    Unavailable,
)

_THINKS: Final = frozenset({"enabled", "adaptive"})


class RelaySource:
    """A :class:`~intramuros.control.inference.rounds.Source` over another Messages API."""

    def __init__(self, host: AnthropicModel, headers: Mapping[str, str]) -> None:
        self._host = host
        self._headers = headers

    async def run(self, body: Json, emit: Emit) -> None:
        """Stream one request; the message names the model as the caller asked for it.

        Raises:
            DomainError: the provider refused, failed or broke off.
        """

        async def renamed(event: Json) -> None:
            message = event.get("message")
            if event.get("type") == "message_start" and isinstance(message, dict):
                event = {**event, "message": {**message, "model": body["model"]}}
            await emit(event)

        try:
            await self._host.relay(body, self._headers, renamed)
        except ModelError as error:
            raise told(error) from error


class ChatSource:
    """A :class:`~intramuros.control.inference.rounds.Source` over Chat Completions.

    Args:
        known: what the model takes.
        new_id: makes the id of a message.
    """

    def __init__(self, host: Model, known: Catalogue, new_id: Callable[[], str]) -> None:
        self._host = host
        self._known = known
        self._new_id = new_id

    async def run(self, body: Json, emit: Emit) -> None:
        """Send one request and tell of the reply as it comes.

        Raises:
            DomainError: the request asks for what is not there, or the provider refused or failed.
        """
        request = fitting(asked(body), self._known)
        frames = _Frames(emit, self._new_id(), body)
        send, receive = anyio.create_memory_object_stream[Delta](float("inf"))
        replies: list[ModelReply] = []
        failed: list[ModelError] = []

        async def ask() -> None:
            with send:
                try:
                    replies.append(await self._host.run(request, send.send_nowait))
                except ModelError as error:
                    failed.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            with receive:
                async for delta in receive:
                    await frames.show(delta)
        if failed:
            raise told(failed[0])
        await frames.finish(replies[0])


class _Frames:
    """The events of one reply. Nothing is told before there is something to tell."""

    def __init__(self, emit: Emit, message_id: str, body: Json) -> None:
        self._emit = emit
        self._message_id = message_id
        self._model = body["model"]
        thinking = body.get("thinking")
        self._thinks = isinstance(thinking, Mapping) and thinking.get("type") in _THINKS
        self._begun = False
        self._open: int | None = None  # index of the reply's block
        self._next = 0  # index of the message's block

    async def show(self, delta: Delta) -> None:
        if isinstance(delta, TextDelta):
            empty: Json = {"type": "text", "text": "", "citations": None}
            more = {"type": "text_delta", "text": delta.text}
        elif isinstance(delta, ThinkingDelta) and self._thinks:
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            more = {"type": "thinking_delta", "thinking": delta.text}
        else:
            return
        if self._open != delta.index:
            await self._close()
            await self._start(empty)
            self._open = delta.index
        await self._add(more)

    async def finish(self, reply: ModelReply) -> None:
        await self._close()
        for block in reply.content:
            if block["type"] == "tool_use":
                given = block["input"]
                whole = given if isinstance(given, Mapping) else {"INVALID_JSON": given}
                await self._start({**block, "input": {}})
                await self._add({"type": "input_json_delta", "partial_json": json.dumps(whole)})
                await self._stop()
        await self._begin()
        end = {"stop_reason": reply.stop_reason, "stop_sequence": None}
        usage = reply.usage.counters
        await self._emit({"type": "message_delta", "delta": end, "usage": usage})
        await self._emit({"type": "message_stop"})

    async def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        message: dict[str, Any] = {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        await self._emit({"type": "message_start", "message": message})

    async def _start(self, block: Json) -> None:
        await self._begin()
        index = self._next
        await self._emit({"type": "content_block_start", "index": index, "content_block": block})

    async def _add(self, delta: Json) -> None:
        await self._emit({"type": "content_block_delta", "index": self._next, "delta": delta})

    async def _stop(self) -> None:
        await self._emit({"type": "content_block_stop", "index": self._next})
        self._next += 1

    async def _close(self) -> None:
        if self._open is not None:
            self._open = None
            await self._stop()


def told(error: ModelError) -> DomainError:
    """Return a provider's failure as callers of the API read it."""
    if error.failure is Failure.RATE_LIMITED:
        return RateLimited(error.message, retry_after_s=error.retry_after_s)
    if error.failure is Failure.OVERLOADED:
        return Overloaded(error.message, retry_after_s=error.retry_after_s)
    if error.too_long or error.ours:
        return InvalidRequest(error.message)
    return Unavailable(error.message, should_retry=None if error.retryable else False)
