import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.metering import tap as module
from intramuros.control.metering.tap import Tap
from intramuros.control.model.cost import Tokens
from tests.fakes.messages_server import frames, message

REPLY: Any = [{"type": "text", "text": 'a "usage" of words'}]
USED = Tokens(11, 7, 5, 3, 0)


def tokens_of(tap: Tap) -> Tokens | None:
    use = tap.use()
    return use.tokens if use else None


@given(st.integers(1, 80))
def test_a_stream_in_any_pieces_says_what_was_used(size: int) -> None:
    tap, data = Tap("m"), b"".join(frames(REPLY, "m"))
    tap.begin(streamed=True)
    for start in range(0, len(data), size):
        tap.feed(data[start : start + size])
    assert tokens_of(tap) == USED


def test_a_whole_answer_says_it_too() -> None:
    tap, data = Tap("m"), json.dumps(message(REPLY, "m")).encode()
    for byte in data:
        tap.feed(bytes([byte]))
    assert tokens_of(tap) == USED
    assert tokens_of(tap) == USED


def test_a_stream_that_broke_off_says_what_it_said_so_far() -> None:
    tap = Tap("m")
    tap.begin(streamed=True)
    tap.feed(frames(REPLY, "m")[0])
    assert tokens_of(tap) == Tokens(11, 1, 5, 3, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"data: {",
        b'data: ["usage"]\n',
        b'data: {"type": "message_start", "message": {"usage": 5}}\n',
        b'data: {"type": "message_delta", "usage": null}\n',
        b'event: x\ndata: {"type": "other", "usage": {"input_tokens": 5}}\n\n',
        b"data: " + b'{"usage":' * 60_000 + b"\n",
    ],
)
def test_nothing_comes_of_what_is_no_usage(data: bytes) -> None:
    for streamed in (True, False):
        tap = Tap("m")
        tap.begin(streamed=streamed)
        tap.feed(data)
        assert tap.use() is None


def test_long_lines_are_dropped_and_what_follows_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    tap = Tap("m")
    tap.begin(streamed=True)
    long = json.dumps({"type": "message_delta", "usage": {"output_tokens": 1}, "x": "y" * 2000})
    tap.feed(f"data: {long}\n".encode())
    assert tap.use() is None
    tap.feed(b"".join(frames(REPLY, "m")))
    assert tokens_of(tap) == USED


def test_a_giant_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 50)
    tap = Tap("m")
    tap.feed(json.dumps(message(REPLY, "m")).encode())
    assert tap.use() is None
