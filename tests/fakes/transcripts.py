"""What providers send, as their public documentation shows it, and what the loop gets of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from intramuros.control.model.base import Failure, Usage


@dataclass(frozen=True)
class Transcript:
    """One answer over HTTP: its frames, and what it comes to."""

    frames: Sequence[str]
    content: Sequence[dict[str, Any]] = ()
    stop: str = "end_turn"
    usage: Usage = field(default_factory=Usage)
    failure: Failure | None = None


def _chat(*chunks: dict[str, Any] | str, done: bool = True) -> list[str]:
    """Return chunks as frames; text stays as it is."""
    lines = [c if isinstance(c, str) else f"data: {json.dumps(c)}" for c in chunks]
    return [*lines, "data: [DONE]"] if done else lines


def _chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> Any:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more}


def _counts(prompt: int, output: int, **more: Any) -> Any:
    return _chunk(usage={"prompt_tokens": prompt, "completion_tokens": output, **more})


def _called(index: int | None, **members: Any) -> dict[str, Any]:
    place = {} if index is None else {"index": index}
    function = {k: members.pop(k) for k in ("name", "arguments") if k in members}
    return {"tool_calls": [{**place, **members, "function": function}]}


def _use(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "ls", "input": arguments}


def _text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def _thought(words: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": words, "signature": ""}


BROKEN = Failure.REQUEST_FAILED

CHAT = {
    "parallel calls in fragments": Transcript(
        _chat(
            _chunk({"role": "assistant", "content": None}),
            _chunk(_called(0, id="call_a", type="function", name="ls", arguments="")),
            _chunk(_called(0, arguments='{"pa')),
            _chunk(_called(1, id="call_b", type="function", name="ls", arguments="")),
            _chunk(_called(0, arguments='th":"a"}')),
            _chunk(_called(1, arguments='{"path":"b"}')),
            _chunk({}, "tool_calls"),
            _counts(
                1024,
                64,
                prompt_tokens_details={"cached_tokens": 1000, "audio_tokens": 0},
                completion_tokens_details={"reasoning_tokens": 32},
            ),
        ),
        [_use("call_a", path="a"), _use("call_b", path="b")],
        "tool_use",
        Usage(24, 64, 0, 1000),
    ),
    "a refusal in words": Transcript(
        _chat(
            _chunk({"role": "assistant", "refusal": "I will "}),
            _chunk({"refusal": "not."}),
            _chunk({}, "stop"),
            _counts(5, 4),
        ),
        [_text("I will not.")],
        "refusal",
        Usage(5, 4),
    ),
    "a filter in front, and one that ends the reply": Transcript(
        _chat(
            {"choices": [], "model": "", "prompt_filter_results": [{"prompt_index": 0}]},
            _chunk({"content": "Some"}, content_filter_results={"hate": {"filtered": False}}),
            _chunk({}, "content_filter"),
            _counts(5, 1),
        ),
        [_text("Some")],
        "refusal",
        Usage(5, 1),
    ),
    "reasoning before words and a call": Transcript(
        _chat(
            _chunk({"role": "assistant", "content": ""}),
            _chunk({"reasoning_content": "Look "}),
            _chunk({"reasoning_content": "first."}),
            _chunk({"content": "\n\nLooking."}),
            _chunk(_called(0, id="chatcmpl-tool-1", type="function", name="ls")),
            _chunk(_called(0, arguments="{}")),
            _chunk({}, "tool_calls", stop_reason=None),
            _counts(9, 3, total_tokens=12),
        ),
        [_thought("Look first."), _text("\n\nLooking."), _use("chatcmpl-tool-1")],
        "tool_use",
        Usage(9, 3),
    ),
    "counts of hits and misses with the last chunk": Transcript(
        _chat(
            ": keep-alive",
            _chunk({"reasoning_content": "Hm."}, usage=None),
            _chunk({"content": "Yes."}),
            _chunk(
                {},
                "stop",
                usage={
                    "prompt_tokens": 100,
                    "completion_tokens": 2,
                    "prompt_cache_hit_tokens": 64,
                    "prompt_cache_miss_tokens": 36,
                },
            ),
        ),
        [_thought("Hm."), _text("Yes.")],
        "end_turn",
        Usage(36, 2, 0, 64),
    ),
    "whole calls without index, ended by stop": Transcript(
        _chat(
            _chunk(_called(None, id="1", type="function", name="ls", arguments='{"a":1}')),
            _chunk(_called(None, id="2", type="function", name="ls", arguments='{"a":2}'), "stop"),
            _counts(3, 3),
        ),
        [_use("1", a=1), _use("2", a=2)],
        "tool_use",
        Usage(3, 3),
    ),
    "a reply that was cut short": Transcript(
        _chat(_chunk({"content": "and then"}), _chunk({}, "length"), _counts(3, 2)),
        [_text("and then")],
        "max_tokens",
        Usage(3, 2),
    ),
    "arguments that are no JSON": Transcript(
        _chat(
            _chunk(_called(0, id="c1", name="ls", arguments='{"path": "a')),
            _chunk({}, "length"),
            _counts(3, 2),
        ),
        [{**_use("c1"), "input": '{"path": "a'}],
        "max_tokens",
        Usage(3, 2),
    ),
    "a gateway's error in the middle": Transcript(
        _chat(
            ": PROCESSING",
            _chunk({"content": "So"}),
            {
                "error": {"code": 502, "message": "upstream is away"},
                "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
            },
            done=False,
        ),
        failure=BROKEN,
    ),
    "no end": Transcript(_chat(_chunk({"content": "So"}), done=False), failure=BROKEN),
    "no counts": Transcript(_chat(_chunk({"content": "So"}), _chunk({}, "stop")), failure=BROKEN),
}


def _events(*named: dict[str, Any]) -> list[str]:
    return [f"event: {e['type']}\ndata: {json.dumps(e)}" for e in named]


def _begun(**usage: int) -> dict[str, Any]:
    said = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    return {"type": "message_start", "message": {**said, "stop_reason": None, "usage": usage}}


def _block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": d} for d in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def _ended(reason: str, **usage: int) -> list[dict[str, Any]]:
    end = {"stop_reason": reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": end, "usage": usage}, {"type": "message_stop"}]


def _spoken(index: int, words: str) -> list[dict[str, Any]]:
    return _block(index, _text(""), {"type": "text_delta", "text": words})


MESSAGES = {
    "thinking, words and two calls": Transcript(
        _events(
            _begun(input_tokens=25, output_tokens=1, cache_read_input_tokens=2048),
            {"type": "ping"},
            *_block(
                0,
                _thought(""),
                {"type": "thinking_delta", "thinking": "Look "},
                {"type": "thinking_delta", "thinking": "first."},
                {"type": "signature_delta", "signature": "EqQB"},
            ),
            *_spoken(1, "Looking."),
            *_block(
                2,
                _use("toolu_1"),
                {"type": "input_json_delta", "partial_json": ""},
                {"type": "input_json_delta", "partial_json": '{"path": "a'},
                {"type": "input_json_delta", "partial_json": '"}'},
            ),
            *_block(3, _use("toolu_2")),
            *_ended("tool_use", output_tokens=89),
        ),
        [
            {**_thought("Look first."), "signature": "EqQB"},
            _text("Looking."),
            _use("toolu_1", path="a"),
            _use("toolu_2"),
        ],
        "tool_use",
        Usage(25, 89, 0, 2048),
    ),
    "redacted thinking and a refusal": Transcript(
        _events(
            _begun(input_tokens=4, output_tokens=1, cache_creation_input_tokens=10),
            *_block(0, {"type": "redacted_thinking", "data": "EmwK"}),
            *_ended("refusal", output_tokens=2),
        ),
        [{"type": "redacted_thinking", "data": "EmwK"}],
        "refusal",
        Usage(4, 2, 10),
    ),
    "overload in the middle": Transcript(
        _events(
            _begun(input_tokens=4, output_tokens=1),
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        ),
        failure=Failure.OVERLOADED,
    ),
    "an event that nobody knows yet": Transcript(
        _events(
            _begun(input_tokens=4, output_tokens=1),
            {"type": "something_new", "x": 1},
            *_spoken(0, "So."),
            *_ended("max_tokens", output_tokens=2),
        ),
        [_text("So.")],
        "max_tokens",
        Usage(4, 2),
    ),
    "no end": Transcript(
        _events(_begun(input_tokens=4, output_tokens=1), *_spoken(0, "So")), failure=BROKEN
    ),
}
