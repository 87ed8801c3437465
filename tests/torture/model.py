"""The model of the campaign: a Messages API that swears to every request, and has bad days."""

import hashlib
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from tests.fakes.messages_server import frames
from tests.torture import jobs
from tests.torture.journal import Journal

TARDY, OVERLOADED, CUT, GARBAGE = "tardy", "overloaded", "cut", "garbage"
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Model:
    """An ASGI application. Each request is in the journal before any of its answer goes out."""

    def __init__(self, journal: Journal, seed: int) -> None:
        self._journal = journal
        self._dice = random.Random(f"model {seed}")
        self._mood, self._size = "", 0.0
        self._count = 0
        self.forbidden_port = 9

    def set(self, mood: str = "", size: float = 0.0) -> None:
        """Behave like this from now on."""
        self._mood, self._size = mood, size

    def _nonce(self) -> str:
        return f"n{self._count:06d}{self._dice.getrandbits(32):08x}"

    def _fresh(self) -> str:
        self._count += 1
        return self._nonce()

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Answer one request."""
        body = await _read(receive)
        if body is None:
            return  # whoever asked was killed meanwhile
        if scope["path"] != "/v1/messages":
            await _whole(send, 200, {"input_tokens": 42})
            return
        answer = jobs.answer(body, self._fresh, self.forbidden_port)
        digest = hashlib.sha256(jobs.dumped(body["messages"]).encode()).hexdigest()
        mood, size = self._mood, self._size
        self._journal.write(
            "request",
            digest=digest,
            mood=mood,
            nonces=answer.nonces,
            messages=len(body["messages"]),
        )
        if mood == OVERLOADED:
            error = {"type": "overloaded_error", "message": "as ordered"}
            await _whole(send, 529, {"type": "error", "error": error})
            return
        if mood == TARDY:
            await anyio.sleep(size)
        whole = frames(answer.content, body["model"])
        await _start(send, 200, "text/event-stream")
        if mood == CUT:
            await send(_part(b"".join(whole[: self._dice.randrange(len(whole))])))
            raise ConnectionAbortedError("as ordered")
        if mood == GARBAGE:
            whole.insert(self._dice.randrange(len(whole)), b"event: message_delta\ndata: {no\n\n")
        await send({**_part(b"".join(whole)), "more_body": False})
        self._journal.write("answered", sync=False, nonces=answer.nonces, at_ns=time.time_ns())


def _part(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _read(receive: Any) -> Any:
    data, more = b"", True
    while more:
        part = await receive()
        if part["type"] == "http.disconnect":
            return None
        data += part.get("body", b"")
        more = part.get("more_body", False)
    return json.loads(data or b"{}")


async def _start(send: Send, status: int, kind: str) -> None:
    headers = [(b"content-type", kind.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _whole(send: Send, status: int, body: object) -> None:
    await _start(send, status, "application/json")
    await send({**_part(json.dumps(body).encode()), "more_body": False})
