"""A Messages API over real HTTP: scripted replies, no latency of its own, faults on demand.

In a test: ``async with FakeMessages(...).running() as base_url``. As a process of its own::

    python -m tests.fakes.messages_server --port 0 [--script FILE | --tool NAME --times N]

prints ``ready http://127.0.0.1:PORT``. ``GET /_requests`` lists the arrivals (nanoseconds of
CLOCK_MONOTONIC, which processes of one machine share), ``POST /_faults`` queues faults.
"""

import argparse
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import uvicorn

from intramuros.control.model.base import ModelRequest
from intramuros.control.model.scripted import ScriptedModel

Blocks = list[dict[str, Any]]
USAGE = {
    "input_tokens": 11,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 5,
    "output_tokens": 1,
}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    ``status`` answers with an error instead of a stream. The others send ``at`` frames first, then
    cut the connection, send an error event, send bytes that are no JSON, or go silent.
    """

    kind: Literal["status", "cut", "error", "garbage", "silence"]
    at: int = 0
    status: int = 529
    type: str = "overloaded_error"
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "as ordered"


def frames(
    content: Sequence[dict[str, Any]], model: str, usage: dict[str, int] | None = None
) -> list[bytes]:
    """Return the stream of a reply, one SSE frame per item, as the API sends it."""
    calls = any(block["type"] == "tool_use" for block in content)
    message = {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage or USAGE,
    }
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(content):
        empty, deltas = _split(block)
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        events.append({"type": "ping"})
        events += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        events.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 7}})
    events.append({"type": "message_stop"})
    return [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events]


def message(content: Sequence[dict[str, Any]], model: str) -> dict[str, Any]:
    """Return a whole reply, as the API answers without streaming."""
    calls = any(block["type"] == "tool_use" for block in content)
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(content),
        "stop_reason": "tool_use" if calls else "end_turn",
        "stop_sequence": None,
        "usage": {**USAGE, "output_tokens": 7},
    }


def _split(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if block["type"] == "text":
        half = len(block["text"]) // 2
        pieces = [block["text"][:half], block["text"][half:]]
        return {"type": "text", "text": ""}, [{"type": "text_delta", "text": p} for p in pieces]
    if block["type"] == "thinking":
        return {"type": "thinking", "thinking": "", "signature": ""}, [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    if block["type"] == "tool_use":
        given = block["input"]  # text is sent as it is, so that it can be half of something
        text = given if isinstance(given, str) else json.dumps(given)
        half = len(text) // 2
        pieces = ["", text[:half], text[half:]]
        return {**block, "input": {}}, [
            {"type": "input_json_delta", "partial_json": p} for p in pieces
        ]
    return block, []


class FakeMessages:
    """The server; ``policy`` maps a request body to the reply's content blocks."""

    def __init__(self, policy: Callable[[dict[str, Any]], Any]) -> None:
        self.policy = policy
        self.usage: Callable[[dict[str, Any]], dict[str, int]] = lambda _: USAGE
        self.faults: list[Fault] = []
        # What is wrong with a body, if anything is: it is answered with a 400 that says so.
        self.refuses: Callable[[dict[str, Any]], str | None] = lambda _: None
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.arrivals_ns: list[int] = []
        self.on_left: Callable[[], None] = lambda: None

    @classmethod
    def saying(cls, *replies: Blocks) -> "FakeMessages":
        """Play replies in order, by the number of assistant messages so far; then the last."""

        def policy(body: dict[str, Any]) -> Blocks:
            turns = sum(m["role"] == "assistant" for m in body["messages"])
            return replies[min(turns, len(replies) - 1)]

        return cls(policy)

    @classmethod
    def calling(cls, tool: str, tool_input: dict[str, Any], times: int) -> "FakeMessages":
        """Call a tool that often after each text of the user, then say ``done``."""

        def policy(body: dict[str, Any]) -> Blocks:
            turns = 0
            for message in body["messages"]:
                if message["role"] == "assistant":
                    turns += 1
                elif not any(b["type"] == "tool_result" for b in _blocks(message)):
                    turns = 0
            if turns >= times:
                return [{"type": "text", "text": "done"}]
            name = f"toolu_fake_{len(body['messages'])}"
            return [{"type": "tool_use", "id": name, "name": tool, "input": tool_input}]

        return cls(policy)

    @classmethod
    def playing(cls, script: Path) -> "FakeMessages":
        """Play a script of the scripted model, under whatever model id is asked for."""
        model = ScriptedModel(script.parent)

        async def policy(body: dict[str, Any]) -> Blocks:
            reply = await model.run(
                ModelRequest(f"scripted/{script.stem}", body["messages"], tools=body["tools"]),
                lambda _: None,
            )
            return [dict(block) for block in reply.content]

        return cls(policy)

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[str]:
        """Serve on loopback; yields the base URL."""
        listener = socket.create_server(("127.0.0.1", port))
        config = uvicorn.Config(
            self, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        # A thread of its own, so that a failing test is not wrapped in the server's task group.
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.force_exit = server.should_exit = True
            await anyio.to_thread.run_sync(thread.join)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/messages":
            arrived = time.monotonic_ns()
            body = json.loads(await _body(receive))
            self.arrivals_ns.append(arrived)
            self.bodies.append(body)
            self.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
            await self._answer(body, receive, send)
        elif scope["path"] == "/v1/messages/count_tokens":
            self.bodies.append(json.loads(await _body(receive)))
            self.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
            await _json(send, 200, {"input_tokens": 42})
        elif scope["path"] == "/_faults":
            self.faults += [Fault(**fault) for fault in json.loads(await _body(receive))]
            await _json(send, 200, {})
        elif scope["path"] == "/_requests":
            await _json(send, 200, {"arrivals_ns": self.arrivals_ns})
        else:
            await _json(send, 404, _error("not_found_error", "no such path"))

    async def _answer(self, body: dict[str, Any], receive: Any, send: Any) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if fault and fault.kind == "status":
            await _json(send, fault.status, _error(fault.type, fault.message), fault.headers)
            return
        if (why := self.refuses(body)) is not None:
            await _json(send, 400, _error("invalid_request_error", why))
            return
        content = self.policy(body)
        if not isinstance(content, list):
            content = await content
        if not body.get("stream"):
            await _json(send, 200, message(content, body["model"]))
            return
        await _start(send, 200, "text/event-stream")
        whole = frames(content, body["model"], self.usage(body))
        kept = whole if fault is None else whole[: fault.at]
        if fault is None:
            await send({"type": "http.response.body", "body": b"".join(kept)})
            return
        for frame in kept:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await self._break(fault, receive, send)

    async def _break(self, fault: Fault, receive: Any, send: Any) -> None:
        if fault.kind == "silence":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.on_left()
            return
        if fault.kind == "cut":
            raise ConnectionAbortedError("as ordered")
        data = json.dumps(_error(fault.type, "as ordered")) if fault.kind == "error" else "{no"
        name = "error" if fault.kind == "error" else "content_block_delta"
        await send(
            {"type": "http.response.body", "body": f"event: {name}\ndata: {data}\n\n".encode()}
        )


def _blocks(message: dict[str, Any]) -> Blocks:
    return [] if isinstance(message["content"], str) else message["content"]


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


async def _body(receive: Any) -> bytes:
    data, more = b"", True
    while more:
        part = await receive()
        data += part.get("body", b"")
        more = part.get("more_body", False)
    return data


async def _start(send: Any, status: int, kind: str, headers: dict[str, str] | None = None) -> None:
    pairs = {"content-type": kind, **(headers or {})}
    raw = [(k.encode(), v.encode()) for k, v in pairs.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _json(send: Any, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    await _start(send, status, "application/json", headers)
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", type=Path)
    parser.add_argument("--tool", default="noop")
    parser.add_argument("--input", type=json.loads, default={})
    parser.add_argument("--times", type=int, default=1)
    options = parser.parse_args()
    if options.script:
        fake = FakeMessages.playing(options.script)
    else:
        fake = FakeMessages.calling(options.tool, options.input, options.times)
    async with fake.running(options.port) as base_url:
        print(f"ready {base_url}", flush=True)  # noqa: T201  the process's one line
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(_main)
