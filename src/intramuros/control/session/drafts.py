"""The groups of rows that the loop writes again and again. Pure.

Orders are the contract's: running is announced for the session and then the thread (AMB 26), idle
for the thread, then usage, then the session (contract 15.5), an error before what follows from it
(AMB 29).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from intramuros.control.session.budget import shown
from intramuros.control.session.calls import Call, CallKind
from intramuros.control.session.usage import snapshot
from intramuros.control.session.view import View
from intramuros.control.store.records import Draft, Record

NO_USAGE: Final[Mapping[str, int]] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
}
INTERRUPTED: Final = "The call was interrupted before it had a result."


def running(view: View) -> list[Draft]:
    """Open a turn, or go on with one."""
    return [
        Draft("session.status_running"),
        Draft("session.thread_status_running", _thread(view)),
    ]


def resting(
    view: View, now_us: int, stop: str, stop_details: Mapping[str, object] | None = None
) -> list[Draft]:
    """Go idle.

    At the budget's cap the session says so, whatever the thread says (contract 15.24), unless it
    waits for an answer (contract 10.26).

    Args:
        view: as it will be just before the idle; for ``requires_action`` it says which calls block.
        stop: the stop reason's type; ``budget_reached`` pauses in the middle of the turn.
        stop_details: what there is to say of a refusal.
    """
    reason: dict[str, object] = {"type": stop}
    if stop == "requires_action":
        reason["event_ids"] = list(view.state.blocking)
    body = {"stop_reason": reason, "stop_details": stop_details}
    whole = body
    if stop != "requires_action" and view.state.capped(now_us):
        whole = {"stop_reason": {"type": "budget_reached"}, "stop_details": None}
    return [
        Draft("session.thread_status_idle", {**_thread(view), **body}),
        Draft("session.usage", usage(view, now_us)),
        Draft(
            "session.status_idle",
            whole,
            private={"paused": True} if stop == "budget_reached" else None,
        ),
    ]


def rescheduled(view: View, retry_at_us: int) -> list[Draft]:
    """Wait for the time of a retry."""
    return [
        Draft("session.thread_status_rescheduled", _thread(view)),
        Draft("session.status_rescheduled", private={"retry_at_us": retry_at_us}),
    ]


def exhausted(view: View, now_us: int, error: Draft) -> list[Draft]:
    """Give the turn up: the error, every waiting input, idle (contract 15.19).

    The inputs become history without being answered, so that nothing a client said is lost: the
    next prompt brings them to the model.
    """
    return [
        error,
        *(processed(record) for record in view.waiting()),
        *resting(view, now_us, "retries_exhausted"),
    ]


def thread_ended(thread_id: str, name: str) -> Draft:
    """End a child thread."""
    body = {"session_thread_id": thread_id, "agent_name": name}
    return Draft("session.thread_status_terminated", body, thread_id=thread_id, shared=True)


def failure(type: str, message: str, retry: str, **more: object) -> Draft:
    """Report an error; ``retry`` is retrying, exhausted or terminal (contract 14.6)."""
    error = {"type": type, "message": message, "retry_status": {"type": retry}, **more}
    return Draft("session.error", {"error": error})


def processed(waiting: Record) -> Draft:
    """Give a waiting input its place in the history."""
    return Draft(
        waiting.type,
        waiting.body,
        id=waiting.id,
        thread_id=waiting.thread_id,
        shared=waiting.shared,
    )


def error_result(call: Call, text: str, *, self_hosted: bool) -> Draft:
    """Answer a call that did not run, or not to its end, on behalf of whoever would have run it.

    On self-hosted sandboxes the record of a built-in tool is always a ``user.tool_result``, which
    is what workers look for (contract AMB 18, 19).
    """
    content = [{"type": "text", "text": text}]
    return result(call, content, is_error=True, self_hosted=self_hosted)


def result(
    call: Call, content: Sequence[Mapping[str, object]], *, is_error: bool, self_hosted: bool
) -> Draft:
    """Answer a call."""
    body = {"content": list(content), "is_error": is_error}
    match call.kind:
        case CallKind.MCP:
            return Draft("agent.mcp_tool_result", {"mcp_tool_use_id": call.id, **body})
        case CallKind.CUSTOM:
            return Draft("user.custom_tool_result", {"custom_tool_use_id": call.id, **body})
        case CallKind.SANDBOX:
            type = "user.tool_result" if self_hosted else "agent.tool_result"
            return Draft(type, {"tool_use_id": call.id, **body})
        case CallKind.WEB:
            return Draft("agent.tool_result", {"tool_use_id": call.id, **body})
        case CallKind.CREW:
            return Draft("internal.crew_result", {"use_id": call.id, **body})


def request_lost(start_id: str, note: Mapping[str, object] | None = None) -> Draft:
    """End a model request that brought nothing (contract 15.4).

    Args:
        note: what follows from it, if anything: ``overflow``, if the conversation was too long for
            the provider; ``withheld`` and ``why``, or ``restored`` (see ``refusals.py``).
    """
    return Draft(
        "span.model_request_end",
        {"model_request_start_id": start_id, "model_usage": dict(NO_USAGE), "is_error": True},
        private=note,
    )


def usage(view: View, now_us: int) -> dict[str, object]:
    """Return what ``session.usage`` tells: the use so far and the budget, if any (R287)."""
    state = view.state
    return {
        "usage": snapshot(state.usage, state.active_us_at(now_us)),
        "budget": shown(state.budget_cents),
    }


def _thread(view: View) -> dict[str, object]:
    return {
        "session_thread_id": view.state.thread_id,
        "agent_name": view.subject.agent["name"],
    }
