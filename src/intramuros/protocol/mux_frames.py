"""Frames of the tunnel multiplexer: encode one, decode many. The format is described in mux.py.

Pure: bytes in, frames out. DATA payloads are handed on as they arrive, so that nothing larger than
one control frame is ever held here.
"""

import re
import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from intramuros.protocol.hostname import BadHost, check_host

VERSION: Final = 1
KIB: Final = 1024
HEADER: Final = struct.Struct("!BII")
# Large frames are cheap, but one of 256 KiB delays another stream's 1 kB by a visible time;
# hence the smaller limit whenever several streams are open.
MAX_DATA_ALONE: Final = 256 * KIB
MAX_DATA_SHARED: Final = 64 * KIB
# OPEN holds a host (253), a trace id and a session id (128 each) and their lengths.
MAX_CONTROL: Final = 520
MAX_STREAM_ID: Final = 2**31 - 1
MAX_CREDIT: Final = 2**31 - 1
MAX_LABEL_CHARS: Final = 128

_HELLO: Final = struct.Struct("!4sHIII")
_U32: Final = struct.Struct("!I")
_U32X2: Final = struct.Struct("!II")
_MAGIC: Final = b"IMUX"
_LABEL: Final = re.compile(r"[A-Za-z0-9_.:-]*\Z")


class FrameType(IntEnum):
    """First byte of a frame."""

    HELLO = 1
    OPEN = 2
    DATA = 3
    WINDOW = 4
    FIN = 5
    RST = 6
    PING = 7
    PONG = 8
    GOAWAY = 9


class Code(IntEnum):
    """Why a stream was reset or a link is going away."""

    NONE = 0
    PROTOCOL = 1
    FLOW_CONTROL = 2
    TOO_LARGE = 3
    VERSION = 4
    REFUSED = 5
    CANCELLED = 6
    NO_ROUTE = 7
    TIMEOUT = 8
    INTERNAL = 9
    DRAIN = 10
    STALE_TOKEN = 11
    NO_RECORD = 12


class MuxViolation(Exception):
    """The peer broke the format: close the link. ``code`` goes into the GOAWAY."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Hello:
    """What each end says first; sizes in bytes."""

    version: int = VERSION
    window: int = 64 * KIB
    max_data: int = MAX_DATA_ALONE
    max_streams: int = 10_000


@dataclass(frozen=True, slots=True)
class Open:
    """A request for a stream to a named private server. There is no field for an address."""

    host: str
    deadline_ms: int
    """Milliseconds in which the inner handshake must be done."""
    trace_id: str = ""
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class Data:
    """Some bytes of a stream: a DATA frame or a part of one."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Window:
    """More credit, in bytes."""

    credit: int


@dataclass(frozen=True, slots=True)
class Fin:
    """No more data in this direction."""


@dataclass(frozen=True, slots=True)
class Rst:
    """The stream is gone in both directions."""

    code: int


@dataclass(frozen=True, slots=True)
class Ping:
    """A question that is answered at once."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a PING."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class GoAway:
    """No new streams after ``last_id``; those that are open may finish."""

    last_id: int
    code: int


Body = Hello | Open | Data | Window | Fin | Rst | Ping | Pong | GoAway

# Exact payload sizes; OPEN and DATA vary.
_SIZES: Final = {
    FrameType.HELLO: _HELLO.size,
    FrameType.WINDOW: 4,
    FrameType.FIN: 0,
    FrameType.RST: 4,
    FrameType.PING: 8,
    FrameType.PONG: 8,
    FrameType.GOAWAY: 8,
}
_ON_LINK: Final = {FrameType.HELLO, FrameType.PING, FrameType.PONG, FrameType.GOAWAY}


def frame(kind: FrameType, stream_id: int, payload: bytes = b"") -> bytes:
    """Return one encoded frame."""
    return HEADER.pack(kind, stream_id, len(payload)) + payload


def encode_hello(hello: Hello) -> bytes:
    """Return the HELLO frame."""
    body = _HELLO.pack(_MAGIC, hello.version, hello.window, hello.max_data, hello.max_streams)
    return frame(FrameType.HELLO, 0, body)


def encode_open(stream_id: int, request: Open) -> bytes:
    """Return an OPEN frame.

    Raises:
        BadHost: the host is none.
        ValueError: a trace or session id that the format cannot carry.
    """
    texts = (check_host(request.host), _label(request.trace_id), _label(request.session_id))
    body = b"".join(bytes([len(text)]) + text.encode("ascii") for text in texts)
    return frame(FrameType.OPEN, stream_id, _U32.pack(request.deadline_ms) + body)


def encode_u32(kind: FrameType, stream_id: int, value: int) -> bytes:
    """Return a WINDOW or RST frame."""
    return frame(kind, stream_id, _U32.pack(value))


def encode_goaway(last_id: int, code: Code) -> bytes:
    """Return a GOAWAY frame."""
    return frame(FrameType.GOAWAY, 0, _U32X2.pack(last_id, code))


class FrameReader:
    """Incremental decoder. Feed bytes as they come; get frames as they complete."""

    def __init__(self, max_data: int = MAX_DATA_ALONE) -> None:
        self._max_data = max_data
        self._partial = bytearray()
        self._data_id = 0
        self._data_left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, Body]]:
        """Yield (stream id, body) for each frame, or part of a DATA frame, in the bytes.

        Raises:
            MuxViolation: an unknown type, a wrong size, or a malformed payload.
        """
        at = 0
        if self._partial:
            at = yield from self._finish_partial(data)
        end = len(data)
        while at < end:
            if self._data_left:
                chunk = data[at : at + self._data_left] if at or end > self._data_left else data
                at += len(chunk)
                self._data_left -= len(chunk)
                yield self._data_id, Data(chunk)
                continue
            if end - at < HEADER.size:
                self._partial += data[at:]
                return
            kind, stream_id, size = self._header(data, at)
            if kind is FrameType.DATA:
                self._data_id, self._data_left = stream_id, size
                at += HEADER.size
            elif end - at < HEADER.size + size:
                self._partial += data[at:]
                return
            else:
                at += HEADER.size + size
                yield stream_id, _decode(kind, data[at - size : at])

    def _finish_partial(self, data: bytes) -> Generator[tuple[int, Body], None, int]:
        """Complete the frame begun earlier; return how many of the new bytes that took."""
        used = 0
        held = self._partial
        if len(held) < HEADER.size:
            used = min(HEADER.size - len(held), len(data))
            held += data[:used]
            if len(held) < HEADER.size:
                return used
        kind, stream_id, size = self._header(held, 0)
        if kind is FrameType.DATA:
            self._data_id, self._data_left = stream_id, size
            held.clear()
            return used
        missing = HEADER.size + size - len(held)
        taken = min(missing, len(data) - used)
        held += data[used : used + taken]
        if taken == missing:
            payload = bytes(held[HEADER.size :])
            held.clear()
            yield stream_id, _decode(kind, payload)
        return used + taken

    def _header(self, data: bytes | bytearray, at: int) -> tuple[FrameType, int, int]:
        number, stream_id, size = HEADER.unpack_from(data, at)
        try:
            kind = FrameType(number)
        except ValueError:
            raise MuxViolation(Code.PROTOCOL, f"unknown frame type {number}") from None
        if (stream_id == 0) != (kind in _ON_LINK) or stream_id > MAX_STREAM_ID:
            raise MuxViolation(Code.PROTOCOL, f"{kind.name} on stream {stream_id}")
        if kind is FrameType.DATA:
            if not 0 < size <= self._max_data:
                raise MuxViolation(Code.TOO_LARGE, f"DATA of {size} bytes")
        elif size != _SIZES.get(kind, size) or size > MAX_CONTROL:
            raise MuxViolation(Code.TOO_LARGE, f"{kind.name} of {size} bytes")
        return kind, stream_id, size


def _decode(kind: FrameType, payload: bytes) -> Body:
    match kind:
        case FrameType.HELLO:
            return _decode_hello(payload)
        case FrameType.OPEN:
            return _decode_open(payload)
        case FrameType.WINDOW:
            return Window(_U32.unpack(payload)[0])
        case FrameType.FIN:
            return Fin()
        case FrameType.RST:
            return Rst(_U32.unpack(payload)[0])
        case FrameType.PING:
            return Ping(payload)
        case FrameType.PONG:
            return Pong(payload)
        case FrameType.GOAWAY:
            return GoAway(*_U32X2.unpack(payload))
        case _:
            raise AssertionError(kind)


def _decode_hello(payload: bytes) -> Hello:
    magic, version, window, max_data, max_streams = _HELLO.unpack(payload)
    if magic != _MAGIC:
        raise MuxViolation(Code.PROTOCOL, "the peer does not speak this protocol")
    if version != VERSION:
        raise MuxViolation(Code.VERSION, f"the peer speaks version {version}, we speak {VERSION}")
    if not (KIB <= window <= MAX_CREDIT and max_data >= KIB and max_streams > 0):
        raise MuxViolation(Code.PROTOCOL, "HELLO with impossible limits")
    return Hello(version, window, max_data, max_streams)


def _decode_open(payload: bytes) -> Open:
    texts: list[str] = []
    at = 4
    try:
        for _ in range(3):
            size = payload[at]
            text = payload[at + 1 : at + 1 + size].decode("ascii")
            if len(text) != size:
                raise MuxViolation(Code.PROTOCOL, "OPEN is cut short")
            texts.append(text)
            at += 1 + size
        if at != len(payload):
            raise MuxViolation(Code.PROTOCOL, "OPEN has trailing bytes")
        deadline_ms = _U32.unpack_from(payload)[0]
        return Open(check_host(texts[0]), deadline_ms, _label(texts[1]), _label(texts[2]))
    except (IndexError, UnicodeDecodeError, BadHost, ValueError, struct.error) as error:
        raise MuxViolation(Code.PROTOCOL, f"malformed OPEN ({error})") from error


def _label(text: str) -> str:
    if len(text) > MAX_LABEL_CHARS or _LABEL.match(text) is None:
        raise ValueError("an id may hold 128 letters, digits and _.:-")
    return text
