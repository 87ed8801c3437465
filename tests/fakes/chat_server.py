"""Chat Completions over real HTTP: scripted replies, faults on demand, as OpenAI frames them.

Policies return the blocks of the Messages API, like those of :class:`FakeMessages`.
"""

import json
from collections.abc import Sequence
from typing import Any

from tests.fakes.messages_server import FakeMessages, Fault, _body, _json, _start

USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 7,
    "total_tokens": 26,
    "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 3},
}
PATH = "/v1/chat/completions"


def chunks(
    content: Sequence[dict[str, Any]], model: str, reason: str | None = None
) -> list[dict[str, Any]]:
    """Return the chunks of a reply, calls in fragments that are interleaved."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    calls: list[list[dict[str, Any]]] = []
    for block in content:
        if block["type"] == "tool_use":
            calls.append(_fragments(len(calls), block))
            continue
        text = block.get("thinking") or block["text"]
        member = "reasoning_content" if block["type"] == "thinking" else "content"
        half = len(text) // 2
        deltas += [{member: text[:half]}, {member: text[half:]}]
    for place in range(3):
        deltas += [{"tool_calls": [fragments[place]]} for fragments in calls]
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    made = [
        {**base, "choices": [{"index": 0, "delta": d, "finish_reason": None}], "usage": None}
        for d in deltas
    ]
    end = reason or ("tool_calls" if calls else "stop")
    made.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": end}]})
    made.append({**base, "choices": [], "usage": USAGE})
    return made


def frames(content: Sequence[dict[str, Any]], model: str, reason: str | None = None) -> list[bytes]:
    """Return the stream of a reply, one SSE frame per item."""
    data = [json.dumps(chunk) for chunk in chunks(content, model, reason)]
    return [f"data: {line}\n\n".encode() for line in [*data, "[DONE]"]]


def _fragments(index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    given = block["input"]
    text = given if isinstance(given, str) else json.dumps(given)
    half = len(text) // 2
    opening = {"name": block["name"], "arguments": ""}
    return [
        {"index": index, "id": block["id"], "type": "function", "function": opening},
        {"index": index, "function": {"arguments": text[:half]}},
        {"index": index, "function": {"arguments": text[half:]}},
    ]


class FakeChat(FakeMessages):
    """The server. ``reason`` ends replies with another finish reason than the fitting one."""

    reason: str | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads(await _body(receive))
        if scope["path"] != PATH:
            await _json(send, 404, _error("invalid_request_error", "no such path"))
            return
        self.bodies.append(body)
        self.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
        await self._answer(body, receive, send)

    async def _answer(self, body: dict[str, Any], receive: Any, send: Any) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if fault and fault.kind == "status":
            await _json(send, fault.status, _error(fault.type, fault.message), fault.headers)
            return
        if (why := self.refuses(body)) is not None:
            await _json(send, 400, _error("invalid_request_error", why))
            return
        whole = frames(self.policy(body), body["model"], self.reason)
        await _start(send, 200, "text/event-stream")
        if fault is None:
            await send({"type": "http.response.body", "body": b"".join(whole)})
            return
        for frame in whole[: fault.at]:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await self._broken(fault, receive, send)

    async def _broken(self, fault: Fault, receive: Any, send: Any) -> None:
        if fault.kind in ("silence", "cut"):
            await self._break(fault, receive, send)
        data = json.dumps(_error(fault.type, fault.message)) if fault.kind == "error" else "{no"
        await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode()})


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}
