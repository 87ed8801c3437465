import json

import pytest
from anthropic._streaming import SSEDecoder
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.sse import (
    KEEP_ALIVE,
    OPENED,
    EventReader,
    EventTooLarge,
    field,
    frame,
    value,
)

MAX_BYTES = 1_000_000


def decoded(stream: bytes) -> list[tuple[str | None, str, str | None]]:
    """What the official SDK makes of a stream."""
    return [(e.event, e.data, e.id) for e in SSEDecoder().iter_bytes(iter([stream]))]


def test_a_frame_names_its_event_and_ends_with_a_blank_line() -> None:
    assert frame("a.b", "{}") == b"event: a.b\ndata: {}\n\n"
    assert frame("a.b", "{}", id="7") == b"event: a.b\nid: 7\ndata: {}\n\n"


@given(st.lists(st.tuples(st.sampled_from(["user.message", "agent.message"]), st.text())))
def test_official_clients_read_back_what_was_framed(sent: list[tuple[str, str]]) -> None:
    stream = OPENED + b"".join(
        frame(name, json.dumps({"text": text})) + KEEP_ALIVE for name, text in sent
    )
    read = [(event, json.loads(data)["text"]) for event, data, _ in decoded(stream)]
    assert read == sent


@pytest.mark.parametrize("bad", ["", "a\nb", "a\rb", "x\n\nevent: forged"])
def test_no_part_can_forge_another_frame(bad: str) -> None:
    for parts in ((bad, "{}"), ("a", bad)):
        with pytest.raises(ValueError, match="one line"):
            frame(*parts)
    with pytest.raises(ValueError, match="one line"):
        frame("a", "{}", id=bad)


@given(st.data())
def test_events_are_the_same_however_the_stream_is_cut(data: st.DataObject) -> None:
    end = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    bom = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    lines = [b"event: a", b"data: 1", b"data: 2", b"", b"", b": c", b"data: 3", b"", b"x: y"]
    stream = bom + end.join(lines)
    whole = data.draw(st.booleans())
    if whole:
        stream += end + end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, events = EventReader(MAX_BYTES), []
    for begin, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += reader.feed(stream[begin:stop])
    events += reader.end()
    last = [[b"x: y"]] if whole else []
    assert events == [[b"event: a", b"data: 1", b"data: 2"], [b": c", b"data: 3"], *last]


def test_a_byte_at_a_time_costs_no_square() -> None:
    reader = EventReader(MAX_BYTES)
    for _ in range(200_000):
        reader.feed(b"a")
    assert reader.feed(b"\n\n") == [[b"a" * 200_000]]


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 101, b"data: x\n" * 20, b"x" * 50])
def test_an_event_that_is_too_large_is_refused(chunk: bytes) -> None:
    reader = EventReader(100)
    with pytest.raises(EventTooLarge):
        for _ in range(3):
            reader.feed(chunk)


def test_a_line_sets_a_field() -> None:
    assert (field(b"id: 7"), value(b"id: 7")) == (b"id", b"7")
    assert (field(b"data"), value(b"data")) == (b"data", b"")
    assert (field(b": comment"), value(b"a:  b")) == (b"", b" b")
