import json

import pytest
from anthropic._streaming import SSEDecoder
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.sse import KEEP_ALIVE, OPENED, frame


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
