"""MCP over the pipes of a program, wherever it runs: a JSON message on each line, of bounded size.

The official SDK's own pipes read lines of any length; what a program in a sandbox writes is
foreign, and must not fill the worker's memory.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import mcp_types
from mcp.client import Transport
from mcp.shared.message import SessionMessage

from intramuros.execution.wrapped.bounds import Marks, TooMany, Until
from intramuros.kernel.programs import GONE, Lines, TooLong

Receive = Callable[[], Awaitable[bytes | None]]
Send = Callable[[bytes], Awaitable[None]]


def _message(line: bytes) -> SessionMessage | None:
    try:
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
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
    lines, marks = Lines(limit), Marks(Until.LINE)

    async def read() -> None:
        async with inward:
            try:
                while (data := await receive()) is not None:
                    await marks.feed(data)
                    for line in lines.feed(data):
                        if (message := _message(line)) is not None:
                            await inward.send(message)
            except (TooLong, TooMany, *GONE):
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
