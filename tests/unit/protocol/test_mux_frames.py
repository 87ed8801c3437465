import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.hostname import BadHost
from intramuros.protocol.mux_frames import (
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

REQUEST = Open("docs.t.example", 10_000, "trace-1", "sesn_1")
WIRE = b"".join(
    [
        encode_hello(Hello()),
        encode_open(1, REQUEST),
        frame(FrameType.DATA, 1, b"hello"),
        encode_u32(FrameType.WINDOW, 1, 77),
        frame(FrameType.FIN, 1),
        encode_u32(FrameType.RST, 1, Code.CANCELLED),
        frame(FrameType.PING, 0, b"12345678"),
        frame(FrameType.PONG, 0, b"12345678"),
        encode_goaway(1, Code.DRAIN),
    ]
)
FRAMES: list[tuple[int, Body]] = [
    (0, Hello()),
    (1, REQUEST),
    (1, Data(b"hello")),
    (1, Window(77)),
    (1, Fin()),
    (1, Rst(Code.CANCELLED)),
    (0, Ping(b"12345678")),
    (0, Pong(b"12345678")),
    (0, GoAway(1, Code.DRAIN)),
]


def hello(magic: bytes, version: int, window: int) -> bytes:
    return frame(FrameType.HELLO, 0, struct.pack("!4sHIII", magic, version, window, 1024, 1))


def joined(frames: list[tuple[int, Body]]) -> list[tuple[int, Body]]:
    """Join neighbouring parts of DATA, which may be cut anywhere."""
    result: list[tuple[int, Body]] = []
    for stream_id, body in frames:
        last = result[-1] if result else None
        if isinstance(body, Data) and last and last[0] == stream_id and isinstance(last[1], Data):
            result[-1] = (stream_id, Data(last[1].payload + body.payload))
        else:
            result.append((stream_id, body))
    return result


def test_whole() -> None:
    assert list(FrameReader().feed(WIRE)) == FRAMES


def test_byte_by_byte() -> None:
    reader = FrameReader()
    frames = [f for i in range(len(WIRE)) for f in reader.feed(WIRE[i : i + 1])]
    assert joined(frames) == FRAMES


@given(st.lists(st.integers(0, len(WIRE))))
def test_cut_anywhere(cuts: list[int]) -> None:
    reader, at, frames = FrameReader(), 0, []
    for cut in [*sorted(cuts), len(WIRE)]:
        frames += list(reader.feed(WIRE[at:cut]))
        at = cut
    assert joined(frames) == FRAMES


def test_data_is_handed_on_before_its_frame_is_complete() -> None:
    reader = FrameReader()
    assert list(reader.feed(frame(FrameType.DATA, 3, b"x" * 100)[:59])) == [(3, Data(b"x" * 50))]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (struct.pack("!BII", 0, 0, 0), Code.PROTOCOL),
        (struct.pack("!BII", 99, 1, 0), Code.PROTOCOL),
        (struct.pack("!BII", FrameType.DATA, 1, 2**32 - 1), Code.TOO_LARGE),
        (struct.pack("!BII", FrameType.DATA, 1, 0), Code.TOO_LARGE),
        (struct.pack("!BII", FrameType.DATA, 0, 1), Code.PROTOCOL),
        (struct.pack("!BII", FrameType.DATA, 2**31, 1), Code.PROTOCOL),
        (struct.pack("!BII", FrameType.OPEN, 1, 521), Code.TOO_LARGE),
        (struct.pack("!BII", FrameType.WINDOW, 1, 5), Code.TOO_LARGE),
        (struct.pack("!BII", FrameType.PING, 1, 8), Code.PROTOCOL),
        (struct.pack("!BII", FrameType.GOAWAY, 0, 9), Code.TOO_LARGE),
        (
            hello(b"HTTP", 1, 1024),
            Code.PROTOCOL,
        ),
        (
            hello(b"IMUX", 9, 1024),
            Code.VERSION,
        ),
        (hello(b"IMUX", 1, 0), Code.PROTOCOL),
        (frame(FrameType.OPEN, 1, b""), Code.PROTOCOL),
        (frame(FrameType.OPEN, 1, b"\0\0\0\1\x03a.b\0"), Code.PROTOCOL),
        (frame(FrameType.OPEN, 1, b"\0\0\0\1\x03a.b\0\0!"), Code.PROTOCOL),
        (frame(FrameType.OPEN, 1, b"\0\0\0\1\x0810.0.0.1\0\0"), Code.PROTOCOL),
        (frame(FrameType.OPEN, 1, b"\0\0\0\1\x03a.b\x03a b\0"), Code.PROTOCOL),
        (frame(FrameType.OPEN, 1, b"\0\0\0\1\x03\xff.b\0\0"), Code.PROTOCOL),
    ],
)
def test_t24_malformed_frames_break_the_link(data: bytes, code: Code) -> None:
    with pytest.raises(MuxViolation) as caught:
        list(FrameReader().feed(data))
    assert caught.value.code is code


def test_t24_an_address_cannot_be_opened() -> None:
    with pytest.raises(BadHost):
        encode_open(1, Open("10.0.0.1", 1))
    with pytest.raises(ValueError, match="letters"):
        encode_open(1, Open("a.b", 1, trace_id="two words"))


def test_data_limit_is_ours() -> None:
    with pytest.raises(MuxViolation):
        list(FrameReader(1024).feed(struct.pack("!BII", FrameType.DATA, 1, 1025)))


@given(st.binary(max_size=600))
def test_arbitrary_bytes_give_frames_or_a_violation(data: bytes) -> None:
    whole, cut = outcome([data]), outcome([data[i : i + 1] for i in range(len(data))])
    assert whole == cut


def outcome(pieces: list[bytes]) -> tuple[list[tuple[int, Body]], Code | None]:
    reader, frames = FrameReader(), []
    try:
        for piece in pieces:
            for found in reader.feed(piece):
                # Not extend(): what came before a violation must be kept.
                frames.append(found)  # noqa: PERF402
    except MuxViolation as violation:
        return joined(frames), violation.code
    return joined(frames), None
