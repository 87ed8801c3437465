import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.model.assemble import MAX_REPLY_BYTES, Assembler, BadStream
from intramuros.control.model.base import TextDelta, ThinkingStarted, Usage
from tests.fakes.messages_server import frames

CONTENT = [
    {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"},
    {"type": "text", "text": "I will look."},
    {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls 'ö' \"x\""}},
    {"type": "tool_use", "id": "toolu_2", "name": "empty", "input": {}},
]


# Python reads all of these, and no client could be sent them again.
UNSENDABLE = ['{"a":NaN}', '{"a":1e999}', r'{"a":"\ud800"}', '{"a":' + "[" * 80 + "]" * 80 + "}"]


def events(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(f.partition(b"data: ")[2]) for f in frames(content, "m")]


def test_a_whole_reply_with_its_deltas_and_usage() -> None:
    assembler = Assembler()
    deltas = [d for e in events(CONTENT) if (d := assembler.feed(e)) is not None]
    assert deltas == [ThinkingStarted(0), TextDelta(1, "I will"), TextDelta(1, " look.")]
    reply = assembler.reply
    assert list(reply.content) == CONTENT
    assert reply.stop_reason == "tool_use"
    assert reply.usage == Usage(11, 7, 3, 5)


def test_redacted_and_unknown_blocks_are_carried_as_they_are() -> None:
    content = [{"type": "redacted_thinking", "data": "abc"}, {"type": "new_kind", "x": 1}]
    assembler = Assembler()
    for event in events(content):
        assembler.feed(event)
    assert list(assembler.reply.content) == content


def test_citations_are_collected() -> None:
    stream = events([{"type": "text", "text": "ab"}])
    stop = next(i for i, e in enumerate(stream) if e["type"] == "content_block_stop")
    for citation in ({"n": 2}, {"n": 1}):
        delta = {"type": "citations_delta", "citation": citation}
        stream.insert(stop, {"type": "content_block_delta", "index": 0, "delta": delta})
    assembler = Assembler()
    for event in stream:
        assembler.feed(event)
    assert assembler.reply.content[0] == {
        "type": "text",
        "text": "ab",
        "citations": [{"n": 1}, {"n": 2}],
    }


@pytest.mark.parametrize("length", range(len(events(CONTENT))))
def test_a_stream_cut_anywhere_has_no_reply(length: int) -> None:
    assembler = Assembler()
    for event in events(CONTENT)[:length]:
        assembler.feed(event)
    with pytest.raises(BadStream, match="broke off"):
        _ = assembler.reply


@pytest.mark.parametrize("text", ["{", "[1]", "7", '{"a":}', "[" * 100_000, *UNSENDABLE])
def test_tool_input_must_be_an_object(text: str) -> None:
    assembler = Assembler()
    assembler.feed({"type": "message_start", "message": {}})
    block = {"type": "tool_use", "id": "t", "name": "n", "input": {}}
    assembler.feed({"type": "content_block_start", "index": 0, "content_block": block})
    delta = {"type": "input_json_delta", "partial_json": text}
    assembler.feed({"type": "content_block_delta", "index": 0, "delta": delta})
    with pytest.raises(BadStream, match="input"):
        assembler.feed({"type": "content_block_stop", "index": 0})


@pytest.mark.parametrize("text", ["{", "[1]", "7", '{"a":}', "[" * 100_000, *UNSENDABLE])
def test_tool_input_that_is_none_may_be_carried_as_it_came(text: str) -> None:
    assembler = Assembler(strict=False)
    block = {"type": "tool_use", "id": "t", "name": "n", "input": text}
    for event in events([block]):
        assembler.feed(event)
    assert list(assembler.reply.content) == [block]


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"type": 7},
        {"type": "text"},
        {"type": "text", "text": None},
        {"type": "tool_use", "name": "n", "input": {}},
        {"type": "tool_use", "id": None, "name": "n", "input": {}},
        {"type": "tool_use", "id": "t", "name": ["n"], "input": {}},
    ],
)
def test_a_block_that_nobody_could_read_breaks_the_stream(block: dict[str, Any]) -> None:
    assembler = Assembler(strict=False)
    assembler.feed({"type": "message_start", "message": {}})
    assembler.feed({"type": "content_block_start", "index": 0, "content_block": block})
    with pytest.raises(BadStream, match="content block"):
        assembler.feed({"type": "content_block_stop", "index": 0})


def test_a_reply_without_end_is_bounded() -> None:
    assembler = Assembler()
    assembler.feed({"type": "message_start", "message": {}})
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}
    assembler.feed(start)
    delta = {"type": "text_delta", "text": "x" * (MAX_REPLY_BYTES // 4)}
    with pytest.raises(BadStream, match="larger"):
        for _ in range(5):
            assembler.feed({"type": "content_block_delta", "index": 0, "delta": delta})


json_values = st.sampled_from([None, True, 0, 1, "", "x", [], [1], {}, {"type": "text"}])
json_values |= st.fixed_dictionaries({"usage": json_values, "stop_reason": json_values})
json_values |= st.fixed_dictionaries({"type": json_values, "text": json_values})
members = st.sampled_from(["index", "content_block", "delta", "usage", "message"])
shapes = st.builds(
    lambda kind, rest: {"type": kind, **rest},
    st.sampled_from([e["type"] for e in events(CONTENT)]),
    st.dictionaries(members, json_values),
)


@given(st.lists(st.sampled_from(events(CONTENT)) | shapes, max_size=20))
def test_any_events_give_a_reply_or_bad_stream(stream: list[dict[str, Any]]) -> None:
    assembler = Assembler()
    try:
        for event in stream:
            assembler.feed(event)
        reply = assembler.reply
    except BadStream:
        return
    assert isinstance(reply.stop_reason, str)
    json.dumps(list(reply.content))
