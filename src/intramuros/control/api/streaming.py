"""Server-sent events over HTTP: headers at once, a deadline on every write."""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from intramuros.control.session.stream import Follower
from intramuros.kernel.telemetry import logger
from intramuros.protocol.sse import OPENED

log = logger("stream")

# A client that takes nothing for this long is gone or stuck; it may list what it missed.
STALL_S: Final = 30.0

_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Reverse proxies that buffer answers must not buffer this one.
    (b"x-accel-buffering", b"no"),
)

# Subscribes, and gives the opened follower to a function that serves it.
Serve = Callable[[Follower], Awaitable[None]]
Attach = Callable[[Serve], Awaitable[None]]


class EventStream(Response):
    """Sends what a follower reads until there is no more, or the client leaves.

    Args:
        attach: subscribes to the session, opens a follower, and calls its argument with it. It
            runs before the headers are sent, so its errors become ordinary answers, and nothing
            that happens after the headers is missed (contract 17.3).
    """

    def __init__(self, attach: Attach) -> None:
        super().__init__()
        self._attach = attach

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream; an ASGI application."""

        async def serve(follower: Follower) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(_watch, receive, group.cancel_scope)
                await _send_all(follower, send)
                group.cancel_scope.cancel()

        await self._attach(serve)


async def _send_all(follower: Follower, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
    await _send(send, OPENED)
    while not follower.over:
        frames = await follower.next()
        if frames and not await _send(send, b"".join(frames)):
            log.info("stream_stalled", seconds=STALL_S)
            return
    await _send(send, b"", more=False)


async def _send(send: Send, body: bytes, *, more: bool = True) -> bool:
    """Send a part of the body; False if the client did not take it in time."""
    with anyio.move_on_after(STALL_S) as scope:
        await send({"type": "http.response.body", "body": body, "more_body": more})
    return not scope.cancelled_caught


async def _watch(receive: Receive, scope: anyio.CancelScope) -> None:
    """End the stream when the client has left."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            scope.cancel(reason="the client left")
            return
