"""How much a server's message may hold: counted before it is parsed, a piece at a time.

Bytes alone say little of the time that a message costs: its values are parsed and checked, and
16 MiB hold millions of those. A parser cannot be interrupted and nothing else runs meanwhile, so a
message that would take long never comes to it. What is foreign is read here in pieces, with room
for others in between.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, Final, Self

import anyio
import mcp_types
from anyio.lowlevel import checkpoint
from mcp.client import Transport
from mcp.shared._stream_protocols import WriteStream
from mcp.shared.message import SessionMessage

from intramuros.protocol.events import MAX_BLOCKS

MAX_VALUES: Final = 100_000
"""Of one message: members, elements, objects and lists."""
MAX_ASKED: Final = 64
"""Requests of the server's own that are not answered yet; one that asks for more is given up."""
_ANSWERS: Final = (mcp_types.JSONRPCResponse, mcp_types.JSONRPCError)
_PIECE: Final = 16 * 1024
_MARKS: Final = (b",", b"{", b"[")
_OUTSIDE: Final = re.compile(rb'[^"\r\n]*+')
_INSIDE: Final = re.compile(rb'(?:[^"\\\r\n]|\\[^\r\n])*+')
_ENDS: Final = b"\r\n"


class TooMany(ValueError):
    """A message has more values than it may have."""


class Until(Enum):
    """Where a message ends, and the next one is counted anew."""

    LINE = "line"
    EVENT = "event"
    """A line that is empty, as in an event stream."""
    BODY = "body"


class Marks:
    """Counts the values of messages that come in pieces, wherever they are cut.

    No string of JSON has an end of line in it, so that each line begins outside of one.
    """

    def __init__(self, until: Until, limit: int = MAX_VALUES) -> None:
        self._until = until
        self._limit = limit
        self._count = 0
        self._inside = False
        self._escaped = False
        self._empty = True
        self._returned = False

    async def feed(self, data: bytes) -> None:
        """Count what a piece holds, and let others run now and then.

        Raises:
            TooMany: the message has more values than it may have.
        """
        for at in range(0, len(data), _PIECE):
            if at:
                await checkpoint()
            self._piece(data[at : at + _PIECE])

    def _piece(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if data[at] in _ENDS:
                self._line(data[at])
                at += 1
                continue
            self._empty = self._returned = False
            at = self._within(data, at) if self._inside else self._between(data, at)

    def _within(self, data: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        match = _INSIDE.match(data, at)
        end = at if match is None else match.end()
        if end < len(data) and data[end : end + 1] == b'"':
            self._inside = False
            return end + 1
        if end < len(data) and data[end : end + 1] == b"\\":
            self._escaped = True  # the last byte of this piece, or of a line
            return end + 1
        return end

    def _between(self, data: bytes, at: int) -> int:
        match = _OUTSIDE.match(data, at)
        end = at if match is None else match.end()
        self._count += sum(data.count(mark, at, end) for mark in _MARKS)
        if self._count > self._limit:
            raise TooMany(f"a message has more than {self._limit} values")
        if data[end : end + 1] == b'"':
            self._inside = True
            return end + 1
        return end

    def _line(self, end: int) -> None:
        self._inside = self._escaped = False
        second = end == _ENDS[1] and self._returned
        self._returned = end == _ENDS[0]
        if self._until is Until.LINE:
            if end == _ENDS[1]:
                self._count = 0
        elif self._until is Until.EVENT and self._empty and not second:
            self._count = 0
        self._empty = True


@asynccontextmanager
async def limited(transport: Transport) -> AsyncIterator[Any]:
    """Pass a transport's messages on, but for results that nobody could take.

    What a tool's results look like is not asked for: their check takes as long as the server wants.
    """
    inward, coming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    async with transport as (read, write), coming, anyio.create_task_group() as group:
        answers = Answers(write)

        async def forward() -> None:
            async with inward:
                async for message in read:
                    if answers.owed(message) > MAX_ASKED:
                        return
                    await inward.send(judged(message))

        group.start_soon(forward)
        try:
            yield coming, answers
        finally:
            group.cancel_scope.cancel()


class Answers:
    """The way to a server, which knows how many of its own requests wait for an answer."""

    def __init__(self, write: WriteStream[SessionMessage]) -> None:
        self._write = write
        self._owed = 0

    def owed(self, message: SessionMessage | Exception) -> int:
        """Count a message of the server's; return how many of its requests are not answered."""
        if not isinstance(message, Exception):
            self._owed += isinstance(message.message, mcp_types.JSONRPCRequest)
        return self._owed

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message."""
        await self._write.send(item)
        self._owed -= isinstance(item.message, _ANSWERS)

    async def aclose(self) -> None:
        """Close the way."""
        await self._write.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def judged(message: SessionMessage | Exception) -> SessionMessage | Exception:
    """Return a message as it is passed on; a result with too many blocks becomes an error."""
    if isinstance(message, Exception) or not isinstance(message.message, mcp_types.JSONRPCResponse):
        return message
    result = message.message.result
    content = result.get("content")
    if isinstance(content, list) and len(content) > MAX_BLOCKS:
        error = mcp_types.ErrorData(
            code=mcp_types.INTERNAL_ERROR,
            message=f"The result has {len(content)} content blocks; at most {MAX_BLOCKS} can be.",
        )
        id = message.message.id
        return SessionMessage(mcp_types.JSONRPCError(jsonrpc="2.0", id=id, error=error))
    tools = result.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict):
            tool.pop("outputSchema", None)
    return message


def size_of(block: object) -> int:
    """Return about how many characters a content block holds."""
    if isinstance(block, str):
        return len(block)
    if isinstance(block, dict):
        return sum(len(key) + size_of(value) for key, value in block.items())
    return 0
