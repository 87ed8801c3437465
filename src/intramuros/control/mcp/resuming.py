"""A transport that takes up answers whose connection broke, where servers keep what they say.

A tool goes on when the connection to its caller breaks. Asked again it would run twice, and without
its answer nobody knows whether it ran. So whoever reads an answer through this transport sees one
stream: after a cut what followed the last event is asked for (MCP 2025-11-25, resumability), until
the answer is there, the server keeps it no more, or nobody could be reached for a while.

Only within sessions: protocol 2026-07-28 has neither, and there a cut is a cancellation.
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import anyio
import httpx2

from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import backoff_s
from intramuros.protocol import sse

log = logger("mcp")

# How long nobody may be reached before a call is given up.
PATIENCE_S: Final = 30.0
WAIT_S: Final = 0.25
MAX_WAIT_S: Final = 5.0
# A server may ask for longer than a call may take; who waits for it is told so in time.
MAX_RETRY_S: Final = 60.0
MAX_EVENT_BYTES: Final = 32 * 1024 * 1024
_SESSION: Final = "mcp-session-id"
# What of a call's headers belongs to its session, or to the reader.
_KEPT: Final = (_SESSION, "mcp-protocol-version", "accept-encoding", "user-agent")
_EVENT_ID: Final = re.compile(rb"[\x20-\x7e]{1,1024}\Z")
_DIGITS: Final = re.compile(rb"[0-9]{1,9}\Z")
_OK: Final = 200
# Not an answer of whoever keeps the events, but of somebody on the way, or to come back later.
_LATER: Final = frozenset({429, 500, 502, 503, 504})


class ResumingTransport(httpx2.AsyncBaseTransport):
    """Wraps the transport to one server.

    Args:
        way: the wrapped one.
        rand: a number in [0, 1), for the waits between tries.
    """

    def __init__(self, way: httpx2.AsyncBaseTransport, rand: Callable[[], float]) -> None:
        self.way = way
        self._rand = rand

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the answer to a call may be read over several connections."""
        response = await self.way.handle_async_request(request)
        stream = response.stream
        in_session = request.method == "POST" and _SESSION in request.headers
        if in_session and _has_events(response) and isinstance(stream, httpx2.AsyncByteStream):
            response.stream = _Answer(self.way, request, stream, self._rand)
        return response

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self.way.aclose()


class PackedReply(httpx2.ReadError):
    """A reply is packed, though none was to be: kilobytes can hold gigabytes."""


async def check_plain(response: httpx2.Response) -> None:
    """Refuse a reply that is packed.

    Raises:
        PackedReply: it is.
    """
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        await response.aclose()
        raise PackedReply("the reply is packed")


@dataclass
class _Place:
    """How far an answer was read."""

    id: bytes | None = None
    """Of the last event; None if the server has not said that it keeps any."""
    retry_s: float = 0.0
    """After which time the server wants to be asked again."""
    events: int = 0
    last: bytes = field(default=b"", repr=False)
    """The last message."""

    def take(self, lines: list[bytes]) -> bytes:
        """Note an event; return what its reader shall get of it.

        Ids are taken out: the reader must not ask for what was cut as well.
        """
        kept = []
        for line in lines:
            name, value = sse.field(line), sse.value(line)
            if name == b"id":
                self.id = value if _EVENT_ID.match(value) else None
            elif name == b"retry" and _DIGITS.match(value):
                self.retry_s = min(int(value) / 1000, MAX_RETRY_S)
            else:
                kept.append(line)
        data = [sse.value(line) for line in kept if sse.field(line) == b"data"]
        if any(data):
            self.events += 1
            self.last = b"\n".join(data)
        return b"\n".join(kept) + b"\n\n" if any(data) or len(kept) == len(lines) else b""

    @property
    def answered(self) -> bool:
        """Whether the last message is an answer, after which nothing follows."""
        try:
            message = json.loads(self.last)
        except (ValueError, RecursionError):
            return False
        return isinstance(message, dict) and ("result" in message or "error" in message)


class _Answer(httpx2.AsyncByteStream):
    """The events of an answer, over as many connections as it takes."""

    def __init__(
        self,
        way: httpx2.AsyncBaseTransport,
        request: httpx2.Request,
        stream: httpx2.AsyncByteStream,
        rand: Callable[[], float],
    ) -> None:
        self._way = way
        self._request = request
        self._stream = stream
        self._rand = rand

    async def __aiter__(self) -> AsyncIterator[bytes]:
        place, vain = _Place(), 0
        while True:
            before, broken = place.events, None
            try:
                async with aclosing(self._events(place)) as events:
                    async for event in events:
                        yield event
            except httpx2.TransportError as error:
                broken = error
            if place.id is None or place.answered:
                if broken is not None and not place.answered:
                    raise broken
                return
            vain = vain + 1 if place.events == before else 0
            await self._stream.aclose()
            self._stream = await self._again(place, vain)
            log.info("mcp_stream_resumed", host=self._request.url.host, events=place.events)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _events(self, place: _Place) -> AsyncGenerator[bytes, None]:
        reader = sse.EventReader(MAX_EVENT_BYTES)
        broken: httpx2.TransportError | None = None
        try:
            async for chunk in self._stream:
                passed = b"".join(map(place.take, reader.feed(chunk)))
                if passed:
                    yield passed
        except httpx2.TransportError as error:
            broken = error
        except sse.EventTooLarge as error:
            place.id = None
            raise httpx2.ReadError(str(error)) from error
        # What was read whole counts, however its connection ended.
        if last := b"".join(map(place.take, reader.end())):
            yield last
        if broken is not None:
            raise broken

    async def _again(self, place: _Place, vain: int) -> httpx2.AsyncByteStream:
        """Return what follows; ``vain`` is how often nothing did.

        Raises:
            httpx2.TransportError: it cannot be had.
        """
        give_up_s = anyio.current_time() + place.retry_s + PATIENCE_S
        while True:
            wait_s = backoff_s(vain, WAIT_S, MAX_WAIT_S, self._rand())
            await anyio.sleep(max(wait_s, place.retry_s))
            vain += 1
            try:
                found = await self._ask(place)
            except PackedReply:
                raise
            except httpx2.TransportError:
                if anyio.current_time() >= give_up_s:
                    raise
                continue
            if isinstance(found, httpx2.AsyncByteStream):
                return found
            if found not in _LATER or anyio.current_time() >= give_up_s:
                raise httpx2.ReadError(
                    f"the connection broke, and what followed is not to be had (HTTP {found})"
                )

    async def _ask(self, place: _Place) -> httpx2.AsyncByteStream | int:
        """Return the stream's continuation, or the status that came in its place."""
        asked = self._request
        headers = {name: asked.headers[name] for name in _KEPT if name in asked.headers}
        headers |= {"accept": "text/event-stream", "last-event-id": (place.id or b"").decode()}
        response = await self._way.handle_async_request(
            httpx2.Request("GET", asked.url, headers=headers, extensions=asked.extensions)
        )
        stream = response.stream
        if _has_events(response) and isinstance(stream, httpx2.AsyncByteStream):
            await check_plain(response)
            return stream
        await response.aclose()
        return response.status_code


def _has_events(response: httpx2.Response) -> bool:
    kind = response.headers.get("content-type", "").partition(";")[0]
    return response.status_code == _OK and kind.strip().lower() == "text/event-stream"
