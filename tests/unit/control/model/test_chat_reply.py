from itertools import count
from typing import Any

import pytest

from intramuros.control.model.assemble import MAX_REPLY_BYTES, BadStream
from intramuros.control.model.base import ModelReply, Usage
from intramuros.control.model.chat_reply import (
    MAX_CALLS,
    ChatAssembler,
    read_arguments,
    read_usage,
    without_unsigned,
)

END = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}


def delta(**members: Any) -> dict[str, Any]:
    return {"choices": [{"delta": members, "finish_reason": None}]}


def call(**members: Any) -> dict[str, Any]:
    name, arguments = members.pop("name", None), members.pop("arguments", None)
    return delta(tool_calls=[{**members, "function": {"name": name, "arguments": arguments}}])


def assembled(
    *chunks: dict[str, Any], names: dict[str, str] | None = None, taken: set[str] | None = None
) -> ModelReply:
    numbers = count(1)
    assembler = ChatAssembler(names or {}, taken or set(), lambda: f"made_{next(numbers)}")
    for chunk in chunks:
        assembler.feed(chunk)
    return assembler.reply


def uses(*chunks: dict[str, Any], **options: Any) -> list[tuple[Any, Any, Any]]:
    reply = assembled(*chunks, END, **options)
    assert reply.stop_reason == "tool_use"
    return [(block["id"], block["name"], block["input"]) for block in reply.content]


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning"])
def test_reasoning_is_thinking_that_nobody_signed(member: str) -> None:
    reply = assembled(delta(**{member: "h"}), delta(**{member: "m"}), delta(content="Yes."), END)
    assert list(reply.content) == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Yes."},
    ]


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
        ("eos", "end_turn"),
    ],
)
def test_stop_reasons(reason: str, stop: str) -> None:
    end = {"choices": [{"delta": {"content": "x"}, "finish_reason": reason}]}
    assert assembled(end, {"choices": [], "usage": {}}).stop_reason == stop


def test_a_refusal_in_words_is_one() -> None:
    reply = assembled(delta(refusal="I will not."), END)
    assert (reply.stop_reason, reply.content[0]["text"]) == ("refusal", "I will not.")


def test_fragments_of_parallel_calls_by_index() -> None:
    assert uses(
        call(index=0, id="a", name="f", arguments='{"x"'),
        call(index=1, id="b", name="g", arguments=""),
        call(index=0, arguments=":1}"),
        call(index=1, id="b", arguments="{}"),
    ) == [("a", "f", {"x": 1}), ("b", "g", {})]


def test_servers_that_number_calls_badly() -> None:
    one = (call(index=0, id="a", name="f", arguments="{}"),)
    assert uses(*one, call(index=0, id="b", name="f", arguments="{}")) == [
        ("a", "f", {}),
        ("b", "f", {}),
    ]
    assert uses(
        call(id="a", name="f", arguments="{"),
        call(arguments="}"),
        call(id="b", name="f", arguments={"x": 2}),
    ) == [("a", "f", {}), ("b", "f", {"x": 2})]
    assert uses(call(name="f", arguments="{}"), call(name="f", arguments="{}")) == [
        ("made_1", "f", {}),
        ("made_2", "f", {}),
    ]


def test_ids_are_good_and_new() -> None:
    assert uses(
        call(index=0, id="functions.f:0", name="f"),
        call(index=1, id="old", name="f"),
        call(index=2, id="new", name="f"),
        taken={"old"},
    ) == [("made_1", "f", {}), ("made_2", "f", {}), ("new", "f", {})]


def test_tools_get_their_own_names_back() -> None:
    assert uses(call(index=0, id="a", name="short"), names={"short": "a.long.name"}) == [
        ("a", "a.long.name", {})
    ]


@pytest.mark.parametrize(
    "arguments", ['{"x": ', "[1]", '"text"', "null", '{"x": NaN}', '{"x": "\\ud800"}', "{" * 9999]
)
def test_arguments_that_are_no_object_stay_text(arguments: str) -> None:
    assert uses(call(index=0, id="a", name="f", arguments=arguments)) == [("a", "f", arguments)]
    assert read_arguments(" ") == {}


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        ([delta(content="x")], "broke off"),
        ([{"choices": [{"delta": {}, "finish_reason": "stop"}]}], "token counts"),
        ([{"choices": [{"delta": {}, "finish_reason": "error"}]}], "error"),
        ([{"choices": ["x"]}], "choice"),
        ([delta(tool_calls=["x"])], "tool call"),
        ([call(index=0, id="a"), END], "without a name"),
        ([delta(content="\ud800"), END], "no JSON"),
        ([delta(content="x" * (MAX_REPLY_BYTES + 1))], "larger"),
        ([call(index=n, id=f"c{n}", name="f") for n in range(MAX_CALLS + 1)], "calls"),
    ],
)
def test_what_is_no_reply_is_asked_for_again(chunks: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(BadStream, match=says):
        assembled(*chunks)


def test_counts_of_the_cache_are_part_of_the_prompts() -> None:
    details = {"cached_tokens": 5, "cache_write_tokens": 3}
    counts = {"prompt_tokens": 19, "completion_tokens": 7, "prompt_tokens_details": details}
    assert read_usage(counts) == Usage(11, 7, 3, 5)
    assert read_usage({"prompt_tokens": 9, "prompt_cache_hit_tokens": 4}) == Usage(5, 0, 0, 4)
    wild = {"prompt_tokens": 2, "completion_tokens": -1, "prompt_tokens_details": details}
    assert read_usage(wild) == Usage(0, 0, 0, 2)
    assert read_usage({"prompt_tokens": True, "prompt_tokens_details": None}) == Usage()


def test_only_thinking_without_a_signature_is_taken_out() -> None:
    signed = {"type": "thinking", "thinking": "a", "signature": "s"}
    said = {"type": "text", "text": "x"}
    mixed = [signed, {"type": "thinking", "thinking": "b", "signature": ""}, said]
    assert without_unsigned([{"role": "assistant", "content": mixed}]) == [
        {"role": "assistant", "content": [signed, said]}
    ]


def test_what_nobody_counted_is_estimated_if_that_is_allowed() -> None:
    chunks = [delta(content="x" * 39), {"choices": [{"delta": {}, "finish_reason": "stop"}]}]
    with pytest.raises(BadStream, match="usage: estimated"):
        assembled(*chunks)
    counting = ChatAssembler({}, set(), str, prompt=100)
    for chunk in chunks:
        counting.feed(chunk)
    assert counting.reply.usage == Usage(100, 10)
    counting.feed({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
    assert counting.reply.usage == Usage(7, 3), "counts that come all the same are better"


def test_a_message_of_nothing_but_thoughts_is_left_out() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [thought]}]
    assert without_unsigned(said) == said[:1]
