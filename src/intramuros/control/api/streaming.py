"""Server-sent events over HTTP: headers at once, a deadline on every write."""

from collections.abc import Awaitable, Callable

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from intramuros.control.api.live import HEADERS, STALL_S, begin, send_part, watch
from intramuros.control.session.stream import Follower
from intramuros.kernel.telemetry import logger
from intramuros.protocol.sse import OPENED

log = logger("stream")

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
                group.start_soon(watch, receive, group.cancel_scope)
                await _send_all(follower, send)
                group.cancel_scope.cancel()

        await self._attach(serve)


async def _send_all(follower: Follower, send: Send) -> None:
    await begin(send, HEADERS)
    await send_part(send, OPENED)
    while not follower.over:
        frames = await follower.next()
        if frames and not await send_part(send, b"".join(frames)):
            log.info("stream_stalled", seconds=STALL_S)
            return
    await send_part(send, b"", more=False)
