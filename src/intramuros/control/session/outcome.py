"""From what an effect brought to the rows that record it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from intramuros.control.mcp.base import McpError, McpFailure, McpResult, McpTool
from intramuros.control.model.base import ModelError, ModelReply
from intramuros.control.session import compaction, evaluation, judging, refusals, replies
from intramuros.control.session.calls import Call, CallKind, Permission
from intramuros.control.session.drafts import (
    error_result,
    exhausted,
    failure,
    request_lost,
    rescheduled,
    result,
)
from intramuros.control.session.outcomes import Aim
from intramuros.control.session.toolset import Tool, judge
from intramuros.control.session.turn import CallModel, Context
from intramuros.control.session.usage import answered_by, priced
from intramuros.control.session.view import View, dump_tool
from intramuros.control.store.records import Draft
from intramuros.kernel.timing import backoff_s
from intramuros.protocol.events import SERVER_TOOLS
from intramuros.web.base import Answer

Json = Mapping[str, Any]

MICROS: Final = 1_000_000
HANDED: Final = "internal.web_call_handed"
# A provider that asks for more patience than this gets the turn back later all the same.
RETRY_AFTER_CAP_S: Final = 3600.0

_USE_EVENTS: Final = {
    CallKind.SANDBOX: "agent.tool_use",
    CallKind.WEB: "agent.tool_use",
    CallKind.MCP: "agent.mcp_tool_use",
    CallKind.CUSTOM: "agent.custom_tool_use",
    CallKind.CREW: "internal.crew_use",
}


@dataclass(frozen=True)
class Spilled:
    """A result as the model sees it, and what its row notes of the whole (``spills.py``)."""

    content: Sequence[Json]
    note: Mapping[str, object]


@dataclass(frozen=True)
class Refused:
    """Why a call is refused before any policy applies; the model reads it."""

    why: str


def replied(
    view: View, command: CallModel, reply: ModelReply, thinking_ids: Sequence[str], context: Context
) -> list[Draft]:
    """Record a reply: thinking, one message, the calls in the model's order, the end (AMB 27).

    Args:
        thinking_ids: the event ids under which thinking was previewed, oldest first.
    """
    if command.compacts:
        window = context.limits.window_of(str(view.subject.agent["model"]["id"]))
        return compaction.told(view, command.opened.start_id, command.request, reply, window)
    refusal = reply.stop_reason == "refusal"
    thoughts = [b for b in reply.content if b["type"] in ("thinking", "redacted_thinking")]
    drafts = [
        Draft("agent.thinking", id=thinking_ids[i] if i < len(thinking_ids) else None)
        for i, _ in enumerate(thoughts)
    ]
    texts = [_text(block) for block in reply.content if block["type"] == "text" and block["text"]]
    if texts:
        drafts.append(Draft("agent.message", {"content": texts}, id=command.message_id))
    content = replies.sound(reply.content, replies.call_ids(command.request), context.new_id)
    uses = [] if refusal else [b for b in content if b["type"] == "tool_use"]
    cut = uses[-1] if uses and reply.stop_reason in replies.CUT else None
    tools = view.tools() if uses else {}
    calls: list[list[str]] = []
    rows: list[Draft] = []
    for block in uses:
        use_id = context.new_id()
        calls.append([str(block["id"]), use_id])
        rows.append(_use(view, block, use_id, tools, cut=block is cut))
    cut_off = replies.unfinished(view, reply)
    ending = None if uses or cut_off else "refusal" if refusal else "end_turn"
    body = {
        "model_request_start_id": command.opened.start_id,
        "model_usage": reply.usage.counters,
        "is_error": False,
    }
    private = {
        "content": [replies.storable(block) for block in content],
        "calls": calls,
        "ending": ending,
        "stop_reason": reply.stop_reason,
        **({"cut_off": True} if cut_off else {}),
        **priced(reply),
        **answered_by(command.request, reply),
    }
    end = Draft("span.model_request_end", body, private=private)
    return [*drafts, *judging.hold(rows, end, context.epoch)]


def model_failed(
    view: View, command: CallModel, error: ModelError, context: Context
) -> list[Draft]:
    """Record a failed request: try again later, or give the turn up (contract 15.18, 15.19).

    One that was refused for a block in it is made again without that block (``refusals.py``).

    A session is never terminated for it: an operator can cure every failure of a provider, and the
    next prompt should then work.
    """
    start_id = command.opened.start_id
    if error.too_long and not command.compacts:
        # The loop makes the conversation shorter, and asks again.
        return [request_lost(start_id, {"overflow": True})]
    if suspects := refusals.suspects(view, error, compacts=command.compacts):
        return refusals.withhold(start_id, suspects, error)
    failures = view.state.failures + 1
    gives_up = not error.retryable or failures > context.limits.failures
    lost = request_lost(start_id, refusals.undone(view) if gives_up else None)
    if gives_up:
        report = failure(error.failure.value, error.message, "exhausted")
        after = view.expect([lost], context.now_us, context.new_id)
        return [lost, *exhausted(after, context.now_us, report)]
    report = failure(error.failure.value, error.message, "retrying")
    return [lost, report, *rescheduled(view, _retry_at_us(failures, error, context))]


def _retry_at_us(failures: int, error: ModelError, context: Context) -> int:
    limits = context.limits
    delay_s = backoff_s(failures - 1, limits.backoff_base_s, limits.backoff_cap_s, context.rand())
    delay_s = max(delay_s, min(error.retry_after_s or 0.0, RETRY_AFTER_CAP_S))
    return context.now_us + round(delay_s * MICROS)


def ungraded(view: View, aim: Aim, error: ModelError, context: Context) -> list[Draft]:
    """Record that the grader's model did not answer: ask again later, or give the turn up."""
    final = not error.retryable or view.state.failures + 1 > context.limits.failures
    drafts = evaluation.failed(view, aim, error, context.now_us, final=final)
    if final:
        return drafts
    at_us = _retry_at_us(view.state.failures + 1, error, context)
    return [*drafts, *rescheduled(view, at_us)]


def listed(view: View, found: Mapping[str, Sequence[McpTool] | McpError]) -> list[Draft]:
    """Record the tools of MCP servers; a server that failed is left out of this turn (R105)."""
    drafts = []
    for name, answer in found.items():
        if isinstance(answer, McpError):
            kind, message = answer.failure.value, answer.message
            drafts.append(failure(kind, message, "retrying", mcp_server_name=name))
            continue
        tools = [dump_tool(tool) for tool in answer]
        if _known(view, name) != tools:
            drafts.append(Draft("internal.mcp_tools", {"server": name, "tools": tools}))
    reached = [name for name, answer in found.items() if not isinstance(answer, McpError)]
    mark = {"turn": view.state.turn, "servers": reached}
    return [*drafts, Draft("internal.mcp_listed", mark)]


def mcp_refused(answer: McpResult | McpError) -> list[Draft]:
    """Report a credential that a server refused in the middle of a turn (R084, R103)."""
    if not isinstance(answer, McpError) or answer.failure is not McpFailure.AUTHENTICATION:
        return []
    kind, name = answer.failure.value, answer.server_name
    return [failure(kind, answer.message, "retrying", mcp_server_name=name)]


def mcp_answered(
    view: View,
    call: Call,
    answer: McpResult | McpError,
    max_chars: int,
    spilled: Spilled | None = None,
) -> Draft:
    """Record the outcome of an MCP call.

    Args:
        max_chars: where its text is cut.
        spilled: what the model sees instead, if the text is kept for the sandbox.
    """
    hosted = view.state.self_hosted
    if isinstance(answer, McpError):
        text = f"The MCP server {answer.server_name} did not answer the call ({answer.message})."
        return error_result(call, text, self_hosted=hosted)
    if spilled is not None:
        told = result(call, spilled.content, is_error=answer.is_error, self_hosted=hosted)
        return replace(told, private=spilled.note)
    content = cut(answer.content, max_chars)
    return result(call, content, is_error=answer.is_error, self_hosted=hosted)


@dataclass(frozen=True)
class Handed:
    """A web call that a worker is to make: what it is told, and for how long it is waited for."""

    ask: Mapping[str, object]
    patience_us: int


def web_handed(call: Call, handed: Handed, context: Context) -> Draft:
    """Record that a worker is to make a call, with all that it needs to know."""
    body = {"tool_use_id": call.id, "until_us": context.now_us + handed.patience_us}
    return Draft(HANDED, body, private=handed.ask)


def web_answered(call: Call, answer: Answer) -> Draft:
    """Record the outcome of a web call; what is not shown says what it costs and what was seen."""
    body = {"tool_use_id": call.id, "content": list(answer.content), "is_error": answer.is_error}
    private: dict[str, object] = {"web": dict(answer.seen)}
    if answer.searches:
        private["web_searches"] = answer.searches
    return Draft("agent.tool_result", body, private=private)


def cut(content: Sequence[Json], max_chars: int) -> list[Json]:
    """Bound the text of a result, saying what is missing (contract 6.25)."""
    kept: list[Json] = []
    room = max_chars
    for block in content:
        text = block.get("text")
        if block["type"] != "text" or not isinstance(text, str) or len(text) <= room:
            kept.append(block)
            room -= len(text) if isinstance(text, str) else 0
            continue
        note = f"\n[cut: {len(text) - room} of {len(text)} characters are not shown]"
        kept.append({**block, "text": text[:room] + note})
        room = 0
    return kept


def _use(view: View, block: Json, use_id: str, tools: Mapping[str, Tool], *, cut: bool) -> Draft:
    name, given = str(block["name"]), block["input"]
    tool = tools.get(name)
    if tool is None:
        why = _absent(view, name)
    elif cut:
        why = "The reply was cut off inside this call; make it again with a smaller input."
    elif not isinstance(given, Mapping):
        why = "The input of this call is not an object."
    else:
        return _judged(tool, given, use_id)
    return _unjudged(tool, name, given, use_id, why)


def _absent(view: View, name: str) -> str:
    if name in SERVER_TOOLS and name not in view.subject.served:
        return f"{name} is not available: the operator of this server has not switched it on."
    return f"There is no tool {name!r} in this session."


def _judged(tool: Tool, given: Json, use_id: str) -> Draft:
    body: dict[str, object] = {"name": tool.bare_name, "input": dict(given)}
    if tool.kind not in (CallKind.CUSTOM, CallKind.CREW):
        verdict = judge(tool)
        body |= {
            "evaluated_permission": verdict.permission.value,
            "evaluation": verdict.evaluation,
        }
    if tool.kind is CallKind.MCP:
        body["mcp_server_name"] = tool.server
    return Draft(_USE_EVENTS[tool.kind], body, id=use_id)


def _unjudged(tool: Tool | None, name: str, given: object, use_id: str, why: str) -> Draft:
    """Refuse a call before any policy applies (contract 6.13).

    Events of custom tools carry no verdict (contract 14.3), so a refused one is shown as a built-in
    call: nobody must take it for work.
    """
    body: dict[str, object] = {
        "name": name if tool is None else tool.bare_name,
        "input": dict(given) if isinstance(given, Mapping) else {},
        "evaluated_permission": Permission.DENY.value,
    }
    type = "agent.tool_use"
    if tool is not None and tool.kind is CallKind.MCP:
        type = _USE_EVENTS[CallKind.MCP]
        body["mcp_server_name"] = tool.server
    elif tool is not None and tool.kind is CallKind.CREW:
        type = _USE_EVENTS[CallKind.CREW]
    return Draft(type, body, id=use_id, private={"refusal": why})


def _text(block: Json) -> dict[str, object]:
    return {"type": "text", "text": block["text"]}


def _known(view: View, server: str) -> list[dict[str, object]] | None:
    for record in reversed(view.records):
        if not view.own(record):
            continue
        if record.type == "internal.mcp_tools" and record.body["server"] == server:
            known: list[dict[str, object]] = record.body["tools"]  # type: ignore[assignment]  # ours
            return known
    return None
