"""The tunnel multiplexer: many byte streams over one, with credit. Both ends use this file.

This docstring is the wire format (docs/reference/tunnel-wire.md shows it in context).

Flow::

    gateway                           edge
      TLS 1.3, ALPN intramuros-link/1
      one JSON line: token     ───▶   verified      (protocol/dial.py)
                               ◀───   OK\\n  or  ERR <code> <text>\\n
      HELLO                   ◀──▶    HELLO         both at once, first on each side
                               ◀───   OPEN 1        only the edge opens; ids only grow
      DATA, WINDOW, FIN, RST  ◀──▶    DATA, WINDOW, FIN, RST
      PING / PONG             ◀──▶    PING / PONG   either side, answered at once
      GOAWAY                  ◀──▶    GOAWAY        no new streams; open ones finish

Every frame, integers in network byte order::

    ┌──────────┬───────────────┬────────────┬─────────────────┐
    │ type 1 B │ stream id 4 B │ length 4 B │ payload, length │
    └──────────┴───────────────┴────────────┴─────────────────┘

    type  name     id   payload                                             limit
    1     HELLO    0    "IMUX", u16 version, u32 window, u32 max DATA,       18 B
                        u32 max streams
    2     OPEN     n    u32 deadline in ms, then three texts, each u8        520 B
                        length + ASCII: host, trace id, session id
    3     DATA     n    bytes; ≤ 64 KiB if several streams are open          256 KiB
    4     WINDOW   n    u32 more credit, in bytes                            4 B
    5     FIN      n    -                                                    0 B
    6     RST      n    u32 code                                             4 B
    7     PING     0    8 bytes, echoed                                      8 B
    8     PONG     0    8 bytes                                              8 B
    9     GOAWAY   0    u32 last accepted id, u32 code                       8 B

OPEN names a host and has no field for an address: whoever holds the edge cannot make a gateway
dial anything but a route in the gateway's own file.

Credit: each direction of a stream starts with the window in the receiver's HELLO. DATA spends it.
The receiver gives it back when its *consumer* took the bytes, never when they arrived, so a slow
consumer stops its own sender and nothing else. A consumer that keeps up is given a larger window.

A frame that breaks these rules ends the link with GOAWAY and the code. Frames for a stream that has
ended are ignored, because they may have crossed its RST; ``noise`` counts them and others that move
nothing, so that whoever has a clock can end a link that sends little else.

Versions: 1 (2026-11) first.

Rules that keep this file pure: no await, no clock, no socket; bytes in, events out; methods are the
commands, and their bytes wait in ``data_to_send``.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from intramuros.protocol.mux_frames import (
    HEADER,
    KIB,
    MAX_CREDIT,
    MAX_DATA_ALONE,
    MAX_DATA_SHARED,
    MAX_STREAM_ID,
    Body,
    Code,
    Data,
    Fin,
    FrameReader,
    FrameType,
    GoAway,
    Hello,
    MuxViolation,
    Open,
    Ping,
    Pong,
    Rst,
    Window,
    encode_goaway,
    encode_hello,
    encode_open,
    encode_u32,
    frame,
)

# What a stream may hold when its consumer keeps up: 1 MiB over 50 ms round trip is 21 MB/s.
MAX_WINDOW: Final = 1024 * KIB
# How much all streams of a link together may hold beyond their first window.
GROWTH_BUDGET: Final = 32 * 1024 * KIB
# Unsent PONG and RST that we hold for a peer that provokes them but does not read.
MAX_PENDING_REPLIES: Final = 64 * KIB
# Credit is returned by halves of a window; less than this at a time asks for work and gives none.
SMALL_CREDIT: Final = 1024
# A PING costs us an answer, so it weighs as much as this many frames that we only ignore.
PING_WEIGHT: Final = 50


class Side(Enum):
    """Which end this is; only the edge opens streams."""

    EDGE = "edge"
    GATEWAY = "gateway"


class StreamGone(Exception):
    """The stream has ended: RST, link lost, or closed by ourselves. Open a new one."""


class LinkFull(Exception):
    """No stream can be opened now: limit reached, or the peer is going away. Use another link."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The peer said HELLO; streams may be opened."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Opened:
    """The edge asks for a stream."""

    stream_id: int
    request: Open


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes for a stream's consumer; call ``consumed`` when it took them."""

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The peer sends no more on this stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer dropped this stream."""

    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class Credited:
    """More may be sent on this stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Ponged:
    """Our PING was answered."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class GoingAway:
    """The peer takes no new streams."""

    last_id: int
    code: int


Event = Ready | Opened | Received | Finished | Reset | Credited | Ponged | GoingAway


@dataclass(slots=True)
class _Stream:
    send_credit: int
    window: int
    """The most that the peer may have in flight or unread towards us."""
    allowed: int
    """What the peer may still send."""
    unread: int = 0
    owed: int = 0
    """Consumed, credit not yet returned."""
    local_open: bool = True
    remote_open: bool = True


class Mux:
    """One end of a link.

    Args:
        side: which end.
        hello: what we announce: the first window, largest DATA and most streams we accept.
    """

    def __init__(self, side: Side, hello: Hello | None = None) -> None:
        self._side = side
        self._hello = hello or Hello()
        self._peer: Hello | None = None
        self._reader = FrameReader(min(self._hello.max_data, MAX_DATA_ALONE))
        self._streams: dict[int, _Stream] = {}
        self._last_id = 0
        self._budget = GROWTH_BUDGET
        self._going_away = False
        self._dead = False
        self._replies = 0
        self.noise = 0
        """Frames so far that moved nothing: pings, crumbs of credit, talk of streams that ended."""
        self._out: list[bytes | memoryview] = [encode_hello(self._hello)]

    # Bytes

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the wire and return what they mean.

        Raises:
            MuxViolation: the peer broke the format. A GOAWAY waits in ``data_to_send``: send it,
                then close.
        """
        events: list[Event] = []
        try:
            if self._dead:
                raise MuxViolation(Code.PROTOCOL, "the link has ended")
            for stream_id, body in self._reader.feed(data):
                self._handle(stream_id, body, events)
        except MuxViolation as violation:
            if not self._dead:
                self._dead = True
                self._out.append(encode_goaway(self._last_id, violation.code))
            raise
        return events

    def data_to_send(self) -> list[bytes | memoryview]:
        """Return and forget the bytes to be written, in order."""
        out, self._out = self._out, []
        self._replies = 0
        return out

    # Commands

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def accepts_streams(self) -> bool:
        """Whether ``open`` would work now."""
        return (
            self._peer is not None
            and not self._going_away
            and not self._dead
            and len(self._streams) < self._peer.max_streams
            and self._last_id < MAX_STREAM_ID
        )

    def open(self, request: Open) -> int:
        """Ask the gateway for a stream and return its id. Only the edge may.

        Raises:
            LinkFull: no stream can be opened now.
        """
        if self._side is not Side.EDGE:
            raise RuntimeError("only the edge opens streams")
        if self._peer is None or not self.accepts_streams:
            raise LinkFull("the link takes no new streams")
        data = encode_open(self._last_id + 1, request)
        self._last_id += 1
        self._out.append(data)
        self._add(self._last_id, self._peer)
        return self._last_id

    def send(self, stream_id: int, data: bytes | memoryview) -> int:
        """Queue as many of the bytes as credit allows, one frame at most, and return how many.

        Raises:
            StreamGone: the stream is not open for sending.
        """
        stream = self._sendable(stream_id)
        size = min(len(data), stream.send_credit, self._max_data())
        if size:
            stream.send_credit -= size
            self._out.append(HEADER.pack(FrameType.DATA, stream_id, size))
            self._out.append(data if size == len(data) else data[:size])
        return size

    def finish(self, stream_id: int) -> None:
        """Say that we send no more on this stream; the other direction stays open.

        Raises:
            StreamGone: the stream is not open for sending.
        """
        stream = self._sendable(stream_id)
        stream.local_open = False
        self._out.append(frame(FrameType.FIN, stream_id))
        if not stream.remote_open:
            self._remove(stream_id)

    def reset(self, stream_id: int, code: Code) -> None:
        """Drop a stream in both directions; nothing happens if it has ended."""
        if stream_id in self._streams:
            self._remove(stream_id)
            self._out.append(encode_u32(FrameType.RST, stream_id, code))

    def consumed(self, stream_id: int, size: int) -> None:
        """Return credit for bytes that the stream's consumer took."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.remote_open:
            return
        stream.unread -= size
        stream.owed += size
        if stream.owed * 2 < stream.window:
            return
        credit = stream.owed
        stream.owed = 0
        if stream.unread == 0:
            credit += self._grow(stream)
        stream.allowed += credit
        self._out.append(encode_u32(FrameType.WINDOW, stream_id, credit))

    def ping(self, nonce: bytes) -> None:
        """Ask the peer for a sign of life; ``nonce`` is 8 bytes."""
        self._out.append(frame(FrameType.PING, 0, nonce))

    def go_away(self, code: Code) -> None:
        """Tell the peer that we want no new streams."""
        self._going_away = True
        self._out.append(encode_goaway(self._last_id, code))

    # Frames

    def _handle(self, stream_id: int, body: Body, events: list[Event]) -> None:
        if self._peer is None and not isinstance(body, Hello):
            raise MuxViolation(Code.PROTOCOL, "the first frame is no HELLO")
        match body:
            case Data():
                self._on_data(stream_id, body, events)
            case Window():
                self._on_window(stream_id, body, events)
            case Fin():
                self._on_fin(stream_id, events)
            case Rst():
                self._on_rst(stream_id, body, events)
            case Open():
                self._on_open(stream_id, body, events)
            case _:
                self._handle_link(body, events)

    def _handle_link(self, body: Hello | Ping | Pong | GoAway, events: list[Event]) -> None:
        match body:
            case Hello():
                self._on_hello(body, events)
            case Ping():
                self._on_ping(body)
            case Pong():
                self.noise += 1
                events.append(Ponged(body.nonce))
            case GoAway():
                self._going_away = True
                events.append(GoingAway(body.last_id, body.code))
            case _:
                assert_never(body)

    def _on_hello(self, body: Hello, events: list[Event]) -> None:
        if self._peer is not None:
            raise MuxViolation(Code.PROTOCOL, "a second HELLO")
        self._peer = body
        events.append(Ready(body))

    def _on_open(self, stream_id: int, body: Open, events: list[Event]) -> None:
        if self._side is Side.EDGE:
            raise MuxViolation(Code.PROTOCOL, "a gateway may not open streams")
        if stream_id <= self._last_id:
            raise MuxViolation(Code.PROTOCOL, f"stream id {stream_id} used again")
        self._last_id = stream_id
        if self._peer is None:
            raise MuxViolation(Code.PROTOCOL, "OPEN before HELLO")
        if self._going_away or len(self._streams) >= self._hello.max_streams:
            self._reply(encode_u32(FrameType.RST, stream_id, Code.REFUSED))
            return
        self._add(stream_id, self._peer)
        events.append(Opened(stream_id, body))

    def _on_data(self, stream_id: int, body: Data, events: list[Event]) -> None:
        stream = self._known(stream_id)
        if stream is None:
            return
        size = len(body.payload)
        if not stream.remote_open:
            raise MuxViolation(Code.PROTOCOL, "DATA after FIN")
        if size > stream.allowed:
            raise MuxViolation(Code.FLOW_CONTROL, "DATA without credit")
        self.noise += not size
        stream.allowed -= size
        stream.unread += size
        events.append(Received(stream_id, body.payload))

    def _on_window(self, stream_id: int, body: Window, events: list[Event]) -> None:
        stream = self._known(stream_id)
        if stream is None:
            return
        self.noise += body.credit < SMALL_CREDIT
        stream.send_credit += body.credit
        if body.credit == 0 or stream.send_credit > MAX_CREDIT:
            raise MuxViolation(Code.FLOW_CONTROL, "WINDOW of zero, or too much credit")
        events.append(Credited(stream_id))

    def _on_fin(self, stream_id: int, events: list[Event]) -> None:
        stream = self._known(stream_id)
        if stream is None:
            return
        if not stream.remote_open:
            raise MuxViolation(Code.PROTOCOL, "a second FIN")
        stream.remote_open = False
        if not stream.local_open:
            self._remove(stream_id)
        events.append(Finished(stream_id))

    def _on_rst(self, stream_id: int, body: Rst, events: list[Event]) -> None:
        if self._known(stream_id) is not None:
            self._remove(stream_id)
            events.append(Reset(stream_id, body.code))

    def _on_ping(self, body: Ping) -> None:
        self.noise += PING_WEIGHT
        self._reply(frame(FrameType.PONG, 0, body.nonce))

    def _reply(self, answer: bytes) -> None:
        """Queue an answer that the peer can provoke at will, hence counted."""
        self._replies += len(answer)
        if self._replies > MAX_PENDING_REPLIES:
            raise MuxViolation(Code.PROTOCOL, "the peer asks faster than it reads")
        self._out.append(answer)

    # Streams

    def _known(self, stream_id: int) -> _Stream | None:
        """Return the stream, or None when it has ended; an id never opened breaks the link."""
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id > self._last_id:
                raise MuxViolation(Code.PROTOCOL, f"stream {stream_id} was never opened")
            self.noise += 1
        return stream

    def _sendable(self, stream_id: int) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None or not stream.local_open:
            raise StreamGone(f"stream {stream_id} is not open")
        return stream

    def _add(self, stream_id: int, peer: Hello) -> None:
        window = self._hello.window
        self._streams[stream_id] = _Stream(peer.window, window, window)

    def _remove(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id)
        self._budget += stream.window - self._hello.window

    def _grow(self, stream: _Stream) -> int:
        """Double the window of a consumer that keeps up, within the link's budget."""
        extra = min(stream.window, MAX_WINDOW - stream.window, self._budget)
        if extra <= 0:
            return 0
        stream.window += extra
        self._budget -= extra
        return extra

    def _max_data(self) -> int:
        limit = MAX_DATA_ALONE if len(self._streams) == 1 else MAX_DATA_SHARED
        return min(limit, self._peer.max_data) if self._peer else limit
