"""Answers that are written while they are made, and given up when the client leaves."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# A client that takes nothing for this long is gone or stuck.
STALL_S: Final = 30.0

HEADERS: Final[Mapping[str, str]] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    # Reverse proxies that buffer answers must not buffer this one.
    "x-accel-buffering": "no",
}


class Live(Response):
    """Runs a function that sends the answer; it is cancelled when the client leaves.

    A domain error that it raises before it began becomes an ordinary error answer.
    """

    def __init__(self, serve: Callable[[Send], Awaitable[None]]) -> None:
        super().__init__()
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the answer; an ASGI application."""
        failed: list[Exception] = []

        async def serve() -> None:
            try:
                await self._serve(send)
            except Exception as error:  # noqa: BLE001  raised below, outside the task group
                failed.append(error)
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch, receive, group.cancel_scope)
            await serve()
        if failed:
            raise failed[0]


async def begin(send: Send, headers: Mapping[str, str]) -> None:
    """Send status 200 and the headers."""
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": pairs})


async def send_part(send: Send, body: bytes, *, more: bool = True) -> bool:
    """Send a part of the body; False if the client did not take it in time."""
    with anyio.move_on_after(STALL_S) as scope:
        await send({"type": "http.response.body", "body": body, "more_body": more})
    return not scope.cancelled_caught


async def watch(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel the scope when the client has left."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            scope.cancel(reason="the client left")
            return
