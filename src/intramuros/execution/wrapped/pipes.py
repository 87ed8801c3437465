"""MCP over the pipes of a program, wherever it runs: a JSON message on each line, of bounded size.

The official SDK's own pipes read lines of any length; what a program in a sandbox writes is
foreign, and must not fill the worker's memory.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import mcp_types
from mcp.client import Transport
from mcp.shared.message import SessionMessage

Receive = Callable[[], Awaitable[bytes | None]]
Send = Callable[[bytes], Awaitable[None]]

GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class TooLong(ValueError):
    """A message is longer than it may be."""


class Lines:
    """Cuts what a program writes into messages.

    Args:
        limit: of one message, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()

    def feed(self, data: bytes) -> list[SessionMessage]:
        """Return the messages that are whole now; lines that are none are left out.

        Raises:
            TooLong: one exceeds the limit.
        """
        self._held += data
        *lines, rest = bytes(self._held).split(b"\n") if b"\n" in data else [self._held]
        if max(map(len, (*lines, rest))) > self._limit:
            raise TooLong(f"a message is longer than {self._limit} bytes")
        if lines:
            self._held = bytearray(rest)
        return [message for message in map(_message, lines) if message is not None]


def _message(line: bytes | bytearray) -> SessionMessage | None:
    try:
        return SessionMessage(
            mcp_types.jsonrpc_message_adapter.validate_json(bytes(line), by_name=False)
        )
    except ValueError:
        # Programs print things that are no messages, against the rules.
        return None


def over(receive: Receive, send: Send, limit: int) -> Transport:
    """Return a transport over a program's output and input; ``receive`` gives None at the end."""
    return _over(receive, send, limit)


@asynccontextmanager
async def _over(
    receive: Receive, send: Send, limit: int
) -> AsyncIterator[
    tuple[
        "anyio.abc.ObjectReceiveStream[SessionMessage | Exception]",
        "anyio.abc.ObjectSendStream[SessionMessage]",
    ]
]:
    inward, coming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    going, outward = anyio.create_memory_object_stream[SessionMessage](0)
    lines = Lines(limit)

    async def read() -> None:
        async with inward:
            try:
                while (data := await receive()) is not None:
                    for message in lines.feed(data):
                        await inward.send(message)
            except (TooLong, *GONE):
                return

    async def write() -> None:
        async with outward:
            try:
                async for message in outward:
                    text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await send(text.encode() + b"\n")
            except GONE:
                # Who waits for an answer learns that there is none to come.
                await inward.aclose()

    async with coming, going, anyio.create_task_group() as group:
        group.start_soon(read)
        group.start_soon(write)
        try:
            yield coming, going
        finally:
            group.cancel_scope.cancel()
