import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.sandbox.inside import frames
from intramuros.execution.sandbox.inside.frames import FrameError, Reader, decode, encode

FIELDS = st.dictionaries(
    st.text(st.characters(codec="ascii"), max_size=20), st.binary(max_size=200), max_size=8
)


@given(st.lists(FIELDS, max_size=4), st.integers(1, 50))
def test_frames_survive_any_cut(sent: list[dict[str, bytes]], size: int) -> None:
    stream = b"".join(encode(fields) for fields in sent)
    reader, got = Reader(), []
    for at in range(0, len(stream), size):
        got += reader.feed(stream[at : at + size])
    assert got == sent


def test_one_byte_at_a_time() -> None:
    reader, got = Reader(), []
    for byte in encode({"op": b"ping", "id": b"\0\xff"}):
        got += reader.feed(bytes((byte,)))
    assert got == [{"op": b"ping", "id": b"\0\xff"}]


@given(st.binary(max_size=300))
def test_foreign_bytes_give_frames_or_a_frame_error(data: bytes) -> None:
    try:
        for fields in Reader().feed(data):
            assert all(isinstance(name, str) for name in fields)
        decode(data)
    except FrameError:
        pass


@pytest.mark.parametrize(
    "body",
    [
        b"\x05ab",
        b"\x01a\x00\x00\x00\x05xx",
        b"\x01a\x00\x00",
        b"\x01\xff\x00\x00\x00\x00",
        encode({"a": b"1"})[4:] * 2,
        b"".join(encode({f"{n}": b""})[4:] for n in range(frames.MAX_FIELDS + 1)),
    ],
)
def test_broken_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        decode(body)


def test_lengths_are_bounded_before_anything_is_kept() -> None:
    with pytest.raises(FrameError, match="over the limit"):
        Reader().feed((frames.MAX_FRAME + 1).to_bytes(4, "big"))
    with pytest.raises(FrameError, match="over the limit"):
        encode({"a": bytes(frames.MAX_FRAME)})
    with pytest.raises(FrameError, match="name too long"):
        encode({"a" * 256: b""})
