"""One link between an edge and a gateway: drives protocol/mux.py over a wire.

Frames are collected and written once per turn of the event loop. Streams wait while the wire holds
too many unsent bytes, but PING, WINDOW and RST never do.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

import anyio
from anyio.abc import ByteStream

from intramuros.kernel.timing import Clock
from intramuros.kernel.wire import Wire, take
from intramuros.protocol.mux import (
    Credited,
    Event,
    Finished,
    GoingAway,
    Mux,
    Opened,
    Ponged,
    Ready,
    Received,
    Reset,
    Side,
    StreamGone,
)
from intramuros.protocol.mux_frames import Code, Hello, MuxViolation, Open


@dataclass(frozen=True)
class Keepalive:
    """When a silent peer is asked, and when it is given up; in seconds.

    A dead peer is noticed after at most ``dead_s`` plus ``every_s``.
    """

    every_s: float = 5.0
    dead_s: float = 15.0


DEFAULT_KEEPALIVE: Final = Keepalive()
# The first frame must come this soon after the OK.
HELLO_S: Final = 10.0
_NONCE: Final = b"intramur"
# Frames a second that move nothing. Ten thousand streams that end at once leave some per stream.
MAX_NOISE_PER_S: Final = 50_000


class StreamReset(anyio.BrokenResourceError):
    """The stream was dropped by the peer or with its link; ``code`` says why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stream reset ({_code_name(code)})")
        self.code = code


class LinkStream(ByteStream):
    """One stream of a link. Closing it without having read its end resets it."""

    def __init__(self, link: "Link", stream_id: int) -> None:
        self._link = link
        self._id = stream_id
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._finished = False
        self._reset: int | None = None
        self._closed = False
        self._readable: anyio.Event | None = None
        self._sendable: anyio.Event | None = None
        self._on_gone: Callable[[], None] | None = None

    @property
    def gone(self) -> bool:
        """Whether the peer sends no more; what it sent may still be unread."""
        return self._ended or self._reset is not None

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """Call back when the peer finishes or resets the stream, or at once if it has."""
        self._on_gone = callback
        if callback is not None and self.gone:
            callback()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes; taking them gives the sender credit.

        Raises:
            EndOfStream: the peer finished its direction.
            StreamReset: the stream was dropped.
            ClosedResourceError: we closed it.
        """
        while not self._chunks:
            self._check_readable()
            self._readable = anyio.Event()
            await self._readable.wait()
        chunk = take(self._chunks, max_bytes)
        self._link.consumed(self._id, len(chunk))
        return chunk

    async def send(self, item: bytes) -> None:
        """Send bytes, waiting for credit and for the wire.

        Raises:
            StreamReset: the stream was dropped.
            ClosedResourceError: we closed or finished it.
        """
        rest: bytes | memoryview = item
        while rest:
            await self._link.writable()
            if self._closed or self._finished:
                raise anyio.ClosedResourceError
            if self._reset is not None:
                raise StreamReset(self._reset)
            sent = self._link.send(self._id, rest)
            if sent == len(rest):
                return
            rest = memoryview(rest)[sent:]
            if not sent:
                self._sendable = anyio.Event()
                await self._sendable.wait()

    async def send_eof(self) -> None:
        """Finish our direction; the peer's stays open."""
        if not self._finished and not self._closed and self._reset is None:
            self._finished = True
            self._link.finish(self._id)

    async def aclose(self) -> None:
        """Finish if nothing is outstanding, otherwise drop the stream."""
        self.close(Code.CANCELLED)

    def close(self, code: Code) -> None:
        """End the stream without waiting; the peer sees ``code`` if it was still sending."""
        if self._closed:
            return
        self._closed = True
        if not self._finished and self._ended:
            self._finished = True
            self._link.finish(self._id)
        elif not self._ended:
            self._link.reset(self._id, code)
        self._link.forget(self._id)
        self._wake()

    # The link calls these

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._chunks.append(data)
        if self._readable is not None:
            self._readable.set()

    def credited(self) -> None:
        """Learn that more may be sent."""
        if self._sendable is not None:
            self._sendable.set()

    def end(self) -> None:
        """Learn that the peer finished."""
        self._ended = True
        self._wake()

    def drop(self, code: int) -> None:
        """Learn that the stream is gone. What came before a FIN stays readable."""
        if self._reset is None:
            self._reset = code
        if not self._ended:
            self._chunks.clear()
        self._wake()

    def _check_readable(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._ended:
            raise anyio.EndOfStream
        if self._reset is not None:
            raise StreamReset(self._reset)

    def _wake(self) -> None:
        for event in (self._readable, self._sendable):
            if event is not None:
                event.set()
        if self._on_gone is not None:
            callback, self._on_gone = self._on_gone, None
            callback()


class Link:
    """One end of an established connection.

    Args:
        wire: after the preamble.
        side: which end this is.
        clock: for the keepalive.
        on_stream: called with each stream that the edge opens; gateways only. Must not block.
        on_going_away: called once the peer wants no new streams.
        keepalive: when to ask a silent peer, and when to give it up.
        hello: what we announce to the peer.
    """

    def __init__(  # noqa: PLR0913  three parts and four settings
        self,
        wire: Wire,
        side: Side,
        clock: Clock,
        *,
        on_stream: Callable[[LinkStream, Open], None] | None = None,
        on_going_away: Callable[[], None] | None = None,
        keepalive: Keepalive = DEFAULT_KEEPALIVE,
        hello: Hello | None = None,
    ) -> None:
        self._wire = wire
        self._mux = Mux(side, hello)
        self._clock = clock
        self._on_stream = on_stream
        self._on_going_away = on_going_away
        self._keepalive = keepalive
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, LinkStream] = {}
        self._flush_due = False
        self._heard_s = clock.monotonic()
        self._noise_seen = (self._heard_s, 0)
        self._ready = anyio.Event()
        self._ended = anyio.Event()
        self._idle: anyio.Event | None = None
        self._writable: anyio.Event | None = None
        self.end_reason = ""
        """Why the link ended, for logs."""
        self.going_away: int | None = None
        """The peer's GOAWAY code, once it sent one."""

    @property
    def load(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def accepts_streams(self) -> bool:
        """Whether a stream can be opened now."""
        return not self._ended.is_set() and self._mux.accepts_streams

    async def run(self, on_ready: Callable[[], None] | None = None) -> None:
        """Serve the link until it ends; the reason is in ``end_reason``."""
        self._wire.subscribe(self._on_data, self._on_lost, self._on_writable)
        self._schedule_flush()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keepalive_loop, on_ready)
                await self._ended.wait()
                group.cancel_scope.cancel()
        finally:
            self._end("closed by us")
            self._wire.abort()

    def open(self, request: Open) -> LinkStream:
        """Open a stream; edges only.

        Raises:
            LinkFull: the link takes no new streams.
        """
        stream_id = self._mux.open(request)
        stream = self._streams[stream_id] = LinkStream(self, stream_id)
        self._schedule_flush()
        return stream

    def go_away(self, code: Code) -> None:
        """Ask the peer for no new streams; open ones may finish."""
        self._mux.go_away(code)
        self._schedule_flush()

    async def drained(self) -> None:
        """Return when no stream is open, or the link has ended."""
        while self._streams and not self._ended.is_set():
            self._idle = anyio.Event()
            await self._idle.wait()

    def abort(self, reason: str) -> None:
        """End the link and all its streams now."""
        self._flush()
        self._end(reason)

    # Streams call these

    async def writable(self) -> None:
        """Wait while the wire holds too many unsent bytes."""
        while not self._wire.writable and not self._ended.is_set():
            if self._writable is None or self._writable.is_set():
                self._writable = anyio.Event()
            await self._writable.wait()

    def send(self, stream_id: int, data: bytes | memoryview) -> int:
        """Queue what credit allows and return its size."""
        try:
            sent = self._mux.send(stream_id, data)
        except StreamGone:
            raise StreamReset(Code.CANCELLED) from None
        if sent:
            self._schedule_flush()
        return sent

    def consumed(self, stream_id: int, size: int) -> None:
        """Return credit to the peer."""
        self._mux.consumed(stream_id, size)
        self._schedule_flush()

    def finish(self, stream_id: int) -> None:
        """Send FIN."""
        try:
            self._mux.finish(stream_id)
        except StreamGone:
            return
        self._schedule_flush()

    def reset(self, stream_id: int, code: Code) -> None:
        """Send RST."""
        self._mux.reset(stream_id, code)
        self._schedule_flush()

    def forget(self, stream_id: int) -> None:
        """Drop our half of a stream that is closed."""
        self._streams.pop(stream_id, None)
        if not self._streams and self._idle is not None:
            self._idle.set()

    # The wire calls these

    def _on_data(self, data: bytes) -> None:
        if self._ended.is_set():
            return
        self._heard_s = self._clock.monotonic()
        try:
            events = self._mux.receive(data)
        except MuxViolation as violation:
            self._flush()
            self._end(f"protocol violation: {violation}")
            return
        if self._is_flood():
            self.go_away(Code.PROTOCOL)
            self.abort("protocol violation: a flood of frames that move nothing")
            return
        for event in events:
            self._handle(event)
        # Handling may have queued PONG or RST even when it returned no event.
        self._schedule_flush()

    def _is_flood(self) -> bool:
        since_s, before = self._noise_seen
        seconds = self._heard_s - since_s
        if seconds >= 1.0:
            self._noise_seen = (self._heard_s, self._mux.noise)
        return self._mux.noise - before > MAX_NOISE_PER_S * max(1.0, seconds)

    def _handle(self, event: Event) -> None:
        match event:
            case Ready():
                self._ready.set()
            case GoingAway(_, code):
                self.going_away = code
                if self._on_going_away is not None:
                    self._on_going_away()
            case Opened(stream_id, request):
                self._accept(stream_id, request)
            case Ponged():
                pass
            case _:
                self._handle_stream(event)

    def _handle_stream(self, event: Received | Credited | Finished | Reset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        match event:
            case Received(_, data):
                stream.feed(data)
            case Credited():
                stream.credited()
            case Finished():
                stream.end()
            case Reset(stream_id, code):
                stream.drop(code)
                self.forget(stream_id)
            case _:
                assert_never(event)

    def _accept(self, stream_id: int, request: Open) -> None:
        if self._on_stream is None:
            self._mux.reset(stream_id, Code.REFUSED)
            return
        stream = self._streams[stream_id] = LinkStream(self, stream_id)
        self._on_stream(stream, request)

    def _on_lost(self, error: Exception | None) -> None:
        self._end(f"connection lost: {error}" if error else "closed by the peer")

    def _on_writable(self) -> None:
        self._flush()
        if self._writable is not None:
            self._writable.set()

    # Inside

    def _schedule_flush(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        # While the wire is full, frames stay in the mux, which bounds them.
        if self._wire.writable:
            self._wire.write_now(self._mux.data_to_send())

    def _end(self, reason: str) -> None:
        if self._ended.is_set():
            return
        self.end_reason = reason
        self._ended.set()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.drop(Code.CANCELLED)
        for event in (self._idle, self._writable):
            if event is not None:
                event.set()

    async def _keepalive_loop(self, on_ready: Callable[[], None] | None) -> None:
        with anyio.move_on_after(HELLO_S):
            await self._ready.wait()
        if not self._ready.is_set():
            self._end("the peer said no HELLO")
            return
        if on_ready is not None:
            on_ready()
        while True:
            await anyio.sleep(self._keepalive.every_s)
            silent_s = self._clock.monotonic() - self._heard_s
            if silent_s >= self._keepalive.dead_s:
                self._end(f"no sign of life for {silent_s:.0f} s")
                return
            if silent_s >= self._keepalive.every_s:
                self._mux.ping(_NONCE)
                self._schedule_flush()


def _code_name(code: int) -> str:
    try:
        return Code(code).name.lower()
    except ValueError:
        return str(code)
