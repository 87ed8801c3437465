"""From the log to the next model request. Pure.

The messages are built from the log alone, so any process can make the same request. The rules that
keep them valid for the Messages API:

* the model's own blocks come back exactly as it sent them (they lie in the private part of
  ``span.model_request_end``), because thinking signatures and tool-use ids must survive;
* each tool use is answered in the very next message, in the model's order;
* what clients said between two replies is one user message, behind the tool results; operator text
  (``system.message``) follows it as a ``system`` message (contract 13.15, 13.18);
* a refused or broken reply leaves no trace: what it said was never part of the conversation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from intramuros.control.model.base import ModelRequest
from intramuros.control.session.state import RESULTS
from intramuros.control.session.toolset import Tool
from intramuros.control.session.view import View
from intramuros.control.store.records import Record
from intramuros.kernel.errors import IntramurosError

Block = dict[str, Any]

# A breakpoint tells the provider that everything up to it will come again.
_CACHE: Final = {"type": "ephemeral"}
# Stands in for a message without text, which the Messages API refuses.
_SILENCE: Final = {"type": "text", "text": "(no text)"}
DENIED: Final = "The user denied this call; it did not run."


class Unanswered(IntramurosError):
    """A tool use has no result yet, so no request can be made: a mistake of ours."""


def request(view: View, max_tokens: int) -> ModelRequest:
    """Return the next model request of a session.

    Args:
        max_tokens: the most that the reply may use.

    Raises:
        Unanswered: a tool use has no result.
    """
    agent = view.subject.agent
    model = agent["model"]
    return ModelRequest(
        model=model["id"],
        system=agent.get("system") or None,
        messages=messages(view.records),
        tools=definitions(view.tools()),
        max_tokens=max_tokens,
        effort=_effort(model.get("effort")),
    )


def definitions(tools: Mapping[str, Tool]) -> list[Block]:
    """Return the Messages API's tool definitions, with a cache breakpoint behind the last."""
    defined = [tool.definition() for tool in tools.values()]
    if defined:
        defined[-1]["cache_control"] = _CACHE
    return defined


def messages(records: Sequence[Record]) -> list[Block]:
    """Return the conversation so far, oldest first.

    Raises:
        Unanswered: a tool use has no result.
    """
    results = {use_id: block for record in records for use_id, block in _results(record)}
    built: list[Block] = []
    gap = _Gap()
    for record in records:
        if record.queued:
            continue
        if record.type == "user.message":
            gap.said += _content(record) or [dict(_SILENCE)]
        elif record.type == "system.message":
            gap.ordered += _content(record)
        elif record.type == "span.model_request_end" and (reply := _reply(record)):
            built += gap.messages()
            built.append({"role": "assistant", "content": reply})
            gap = _Gap(answers=_answers(record, results))
    built += gap.messages()
    _mark_cached(built)
    return built


@dataclass
class _Gap:
    """What lies between two replies."""

    answers: list[Block] = field(default_factory=list)
    said: list[Block] = field(default_factory=list)
    ordered: list[Block] = field(default_factory=list)

    def messages(self) -> Iterator[Block]:
        content = self.answers + self.said
        if content or self.ordered:
            # The API wants a user message before the operator's, and no empty one.
            yield {"role": "user", "content": content or [dict(_SILENCE)]}
        if self.ordered:
            yield {"role": "system", "content": self.ordered}


def _reply(record: Record) -> list[Block]:
    """Return the assistant message of a finished request, or nothing."""
    private = cast("Mapping[str, Any]", record.private or {})
    if private.get("ending") == "refusal":
        return []
    kept = [dict(block) for block in private.get("content", ()) if not _empty(block)]
    if all(block["type"] in ("thinking", "redacted_thinking") for block in kept):
        return []
    return kept


def _answers(record: Record, results: Mapping[str, Block]) -> list[Block]:
    private = cast("Mapping[str, Any]", record.private)
    answers = []
    for model_id, use_id in private.get("calls", ()):
        if use_id not in results:
            raise Unanswered(f"{use_id} has no result")
        answers.append({"type": "tool_result", "tool_use_id": model_id, **results[use_id]})
    return answers


def _results(record: Record) -> Iterator[tuple[str, Block]]:
    """Return the call that a record settles and the result that the model gets, if it does."""
    if record.queued:
        return
    if record.type in RESULTS:
        _, member = RESULTS[record.type]
        answer: Block = {"content": _content(record)} if _content(record) else {}
        if record.body.get("is_error"):
            answer["is_error"] = True
        yield cast("str", record.body[member]), answer
    elif record.type == "user.tool_confirmation" and record.body["result"] == "deny":
        yield cast("str", record.body["tool_use_id"]), denial(record)


def denial(confirmation: Record) -> Block:
    """Return the result that tells the model of a denial (contract 15.10)."""
    why = confirmation.body.get("deny_message")
    text = f"{DENIED} The user said: {why}" if why else DENIED
    return {"content": [{"type": "text", "text": text}], "is_error": True}


def _content(record: Record) -> list[Block]:
    blocks = cast("Sequence[Mapping[str, Any]]", record.body.get("content") or ())
    return [dict(block) for block in blocks if not _empty(block)]


def _empty(block: Mapping[str, Any]) -> bool:
    """The Messages API refuses text blocks without text."""
    return block["type"] == "text" and not block["text"]


def _mark_cached(built: list[Block]) -> None:
    """Put a cache breakpoint behind the newest user message; it covers all that is before it."""
    for message in reversed(built):
        if message["role"] == "user":
            message["content"][-1] = {**message["content"][-1], "cache_control": _CACHE}
            return


def _effort(effort: object) -> str | None:
    """Return the effort's name, which the snapshot shows as an object or as text."""
    if isinstance(effort, Mapping):
        effort = effort.get("type")
    return effort if isinstance(effort, str) else None
