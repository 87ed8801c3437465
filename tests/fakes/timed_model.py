"""A fake model as a process of its own, which keeps the times that benchmarks ask about.

``python -m tests.fakes.timed_model [--times N] [--think-s S] [--pieces N]`` prints ``ready URL``.
It calls the tool ``probe`` so often in a turn, or speaks in so many pieces. The text of a result is
the time at which its client sent it, on the clock that processes of one machine share; ``GET
/_waits`` tells how long each took to come here, in nanoseconds. The text of a piece is when it was
sent.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import anyio

from tests.fakes.messages_server import Blocks, FakeMessages, _json, _start, frames

PIECE_S = 0.02


class TimedModel(FakeMessages):
    """Calls or speaks, and looks at the clock."""

    def __init__(self, times: int, think_s: float, pieces: int) -> None:
        self._calls = FakeMessages.calling("probe", {}, times).policy
        super().__init__(self._calls)
        self._think_s = think_s
        self._pieces = pieces
        self.waits_ns: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve; an ASGI application."""
        if scope["path"] == "/_waits":
            taken, self.waits_ns = self.waits_ns, []
            await _json(send, 200, taken)
            return
        await super().__call__(scope, receive, send)
        # Hours of them would fill the memory.
        self.bodies.clear()
        self.headers.clear()

    async def _answer(self, body: dict[str, Any], receive: Any, send: Any) -> None:
        arrived_ns = self.arrivals_ns[-1]
        self.waits_ns += [arrived_ns - sent for sent in _sent(body["messages"][-1])]
        if self._think_s:
            await anyio.sleep(self._think_s * (0.5 + random.random()))
        if not self._pieces:
            await super()._answer(body, receive, send)
            return
        await _start(send, 200, "text/event-stream")
        spoken = frames([{"type": "text", "text": ""}], body["model"])
        head = next(i for i, frame in enumerate(spoken) if b"content_block_delta" in frame)
        await _part(send, b"".join(spoken[:head]))
        for _ in range(self._pieces):
            await anyio.sleep(PIECE_S)
            delta = {"type": "text_delta", "text": f"{time.monotonic_ns()} "}
            event = {"type": "content_block_delta", "index": 0, "delta": delta}
            await _part(send, f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        rest = [frame for frame in spoken[head:] if b"content_block_delta" not in frame]
        await send({"type": "http.response.body", "body": b"".join(rest)})


async def _part(send: Any, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


def _sent(message: dict[str, Any]) -> Iterator[int]:
    """Yield when the results of a message were sent."""
    blocks: Blocks = message["content"] if isinstance(message["content"], list) else []
    for block in blocks:
        for part in block.get("content") or ():
            if isinstance(part, dict) and str(part.get("text", "")).isdigit():
                yield int(part["text"])


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=0)
    parser.add_argument("--think-s", type=float, default=0.0)
    parser.add_argument("--pieces", type=int, default=0)
    options = parser.parse_args()
    async with TimedModel(options.times, options.think_s, options.pieces).running() as base_url:
        print(f"ready {base_url}", flush=True)  # noqa: T201  the process's one line
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(_main)
