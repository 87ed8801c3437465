"""Puts a streamed reply together: Chat Completions chunks in, one Messages API reply out. Pure.

Servers that speak this protocol differ in small things, and all of them are taken: reasoning under
two names, calls without an index or with ids that others do not take, more than one call under one
index, a stop reason that forgets the calls. Memory is bounded by ``MAX_REPLY_BYTES``. A call whose
arguments are no JSON object keeps them as text: the loop refuses it, and the model reads why.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from intramuros.control.model.assemble import (
    MAX_REPLY_BYTES,
    BadStream,
    check_block,
    read_arguments,
)
from intramuros.control.model.base import (
    Delta,
    ModelReply,
    TextDelta,
    ThinkingDelta,
    ThinkingStarted,
    Usage,
)
from intramuros.control.model.chat_request import CHARS_PER_TOKEN, is_unsigned

# What every provider takes back as the id of a call.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
# More calls than any reply makes.
MAX_CALLS: Final = 1024
_STOPS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
# Reasons that are failures; any other that we do not know ends the turn.
_FAILURES: Final = frozenset({"error", "abort"})


class ChatAssembler:
    """Collects one reply. Feed every chunk; ask for :attr:`reply` at the end.

    Args:
        names: the tools' own names by those under which they were offered.
        taken: ids of calls that the conversation holds already.
        new_id: makes an id for a call that comes without a good one.
        prompt: about how many tokens the prompt has, if the server does not count them.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        taken: set[str],
        new_id: Callable[[], str],
        prompt: int | None = None,
    ) -> None:
        self._prompt = prompt
        self._names = names
        self._taken = set(taken)
        self._new_id = new_id
        self._parts: list[tuple[str, list[str]]] = []
        self._calls: list[_Call] = []
        self._stop: str | None = None
        self._refused = False
        self._usage: Usage | None = None
        self._size = 0

    def feed(self, chunk: Mapping[str, object]) -> list[Delta]:
        """Take one chunk; return what of it is worth showing at once.

        Raises:
            BadStream: the chunk is malformed, or the reply is too large.
        """
        usage = chunk.get("usage")
        if isinstance(usage, Mapping):
            self._usage = read_usage(usage)
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(choice, Mapping):
            raise BadStream("a choice is no JSON object")
        delta = choice.get("delta")
        deltas = self._extend(delta) if isinstance(delta, Mapping) else []
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            if reason in _FAILURES:
                raise BadStream(f"the provider ended its reply for the reason {reason!r}")
            self._stop = _STOPS.get(reason, "end_turn")
        return deltas

    @property
    def reply(self) -> ModelReply:
        """The whole reply.

        Raises:
            BadStream: the stream broke off, or says nothing of the tokens it used although the
                server should, so that no limit and no budget could be kept.
        """
        if self._stop is None:
            raise BadStream("the stream broke off before the end of the message")
        usage = self._usage or self._estimated()
        content = [_spoken(kind, "".join(pieces)) for kind, pieces in self._parts]
        content += [self._made(call) for call in self._calls]
        for block in content:
            check_block(block)
        stop = "refusal" if self._refused else self._stop
        if stop == "end_turn" and self._calls:
            stop = "tool_use"
        return ModelReply(tuple(content), stop, usage)

    def _estimated(self) -> Usage:
        if self._prompt is None:
            raise BadStream(
                "the stream ended without token counts; if the server never gives any, "
                "say usage: estimated of it in the models file"
            )
        return Usage(self._prompt, -(-self._size // CHARS_PER_TOKEN))

    def _extend(self, delta: Mapping[str, object]) -> list[Delta]:
        shown: list[Delta] = []
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            shown += self._say("thinking", reasoning)
        for member in ("content", "refusal"):
            text = delta.get(member)
            if isinstance(text, str) and text:
                self._refused = self._refused or member == "refusal"
                shown += self._say("text", text)
        calls = delta.get("tool_calls")
        for fragment in calls if isinstance(calls, list) else ():
            self._call(fragment)
        return shown

    def _say(self, kind: str, text: str) -> list[Delta]:
        self._grow(text)
        begins = not self._parts or self._parts[-1][0] != kind
        if begins:
            self._parts.append((kind, []))
        self._parts[-1][1].append(text)
        index = len(self._parts) - 1
        if kind == "text":
            return [TextDelta(index, text)]
        more = ThinkingDelta(index, text)
        return [ThinkingStarted(index), more] if begins else [more]

    def _call(self, fragment: object) -> None:
        if not isinstance(fragment, Mapping):
            raise BadStream("a tool call is no JSON object")
        function = fragment.get("function")
        function = function if isinstance(function, Mapping) else {}
        name, arguments = function.get("name"), function.get("arguments")
        call = self._which(fragment, named=bool(name))
        if isinstance(name, str) and name and not call.name:
            self._grow(name)
            call.name = name
        if isinstance(arguments, Mapping):  # some send them whole, and not as text
            arguments = json.dumps(arguments, ensure_ascii=False)
        if isinstance(arguments, str):
            self._grow(arguments)
            call.pieces.append(arguments)

    def _which(self, fragment: Mapping[str, object], *, named: bool) -> "_Call":
        """Return the call that a fragment belongs to."""
        index, given = fragment.get("index"), fragment.get("id")
        call_id = given if isinstance(given, str) else ""
        known = [call for call in self._calls if call.index == index]
        if index is None:
            known = self._calls[-1:]
        last = known[-1] if known else None
        other = last is not None and named and call_id not in ("", last.id)
        if last is None or other or (index is None and named and not call_id):
            if len(self._calls) >= MAX_CALLS:
                raise BadStream(f"the reply makes more than {MAX_CALLS} calls")
            last = _Call(index, call_id)
            self._calls.append(last)
        last.id = last.id or call_id
        return last

    def _made(self, call: "_Call") -> dict[str, object]:
        if not call.name:
            raise BadStream("a tool call without a name")
        call_id = call.id
        if not _ID.fullmatch(call_id) or call_id in self._taken:
            call_id = self._new_id()
        self._taken.add(call_id)
        return {
            "type": "tool_use",
            "id": call_id,
            "name": self._names.get(call.name, call.name),
            "input": read_arguments("".join(call.pieces)),
        }

    def _grow(self, text: str) -> None:
        self._size += len(text)
        if self._size > MAX_REPLY_BYTES:
            raise BadStream(f"the reply is larger than {MAX_REPLY_BYTES} bytes")


class _Call:
    """One call as far as it has come."""

    def __init__(self, index: object, call_id: str) -> None:
        self.index = index
        self.id = call_id
        self.name = ""
        self.pieces: list[str] = []


def read_usage(usage: Mapping[str, object]) -> Usage:
    """Return token counts; there, those from the cache and into it are part of the prompt's."""
    prompt, output = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, Mapping) else {}
    cached = _count(details, "cached_tokens") or _count(usage, "prompt_cache_hit_tokens")
    cached = min(cached, prompt)
    written = min(_count(details, "cache_write_tokens"), prompt - cached)
    return Usage(
        input_tokens=prompt - cached - written,
        output_tokens=output,
        cache_creation_input_tokens=written,
        cache_read_input_tokens=cached,
    )


def _spoken(kind: str, text: str) -> dict[str, object]:
    if kind == "thinking":
        # Without a signature: no provider takes it back.
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "text", "text": text}


def _count(counts: Mapping[str, object], name: str) -> int:
    value = counts.get(name)
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if good and isinstance(value, int) else 0


def without_unsigned(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a conversation without thinking that the Messages API would refuse.

    A message of nothing else is left out; the API takes what stands around it all the same.
    """
    kept: list[Mapping[str, Any]] = []
    for message in messages:
        content = message.get("content")
        if not isinstance(content, list | tuple) or not any(map(is_unsigned, content)):
            kept.append(message)
            continue
        rest = [block for block in content if not is_unsigned(block)]
        if rest:
            kept.append({**message, "content": rest})
    return kept
