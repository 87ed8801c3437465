"""What a session does next: a function of its log. Pure.

:func:`decide` looks at a view and returns one command; whoever performs it appends what came of it
and asks again. No decision depends on who asks or on what was done before: a process that dies is
replaced by one that reads the log. Time, randomness and fresh ids come in with the
:class:`Context`.

What a crash may have left behind is recognised by the lease epoch in the log: whatever was begun
under an older epoch has nobody waiting for it any more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from intramuros.control.mcp.base import McpServer
from intramuros.control.model.base import ModelRequest
from intramuros.control.session import compaction, evaluation, judging, transcript
from intramuros.control.session.calls import OUTSIDE, Call, CallKind, Permission
from intramuros.control.session.conversation import denial
from intramuros.control.session.drafts import (
    INTERRUPTED,
    error_result,
    exhausted,
    failure,
    processed,
    request_lost,
    resting,
    running,
)
from intramuros.control.session.evaluation import AskGrader
from intramuros.control.session.judging import AskJudge, Bench
from intramuros.control.session.phase import OPENERS, Phase
from intramuros.control.session.state import OpenRequest
from intramuros.control.session.view import View, identified
from intramuros.control.store.records import Draft, Record

UNKNOWN_OUTCOME: Final = (
    "The server that made this call stopped before it saw the result, so the outcome is unknown: "
    "the call may or may not have taken effect. Check before repeating it."
)
WEB_UNANSWERED: Final = (
    "unavailable: the worker that was to make this call did not answer in time. Make the call "
    "again if you still need it."
)
WEB_LOST: Final = (
    "unavailable: the server that made this call stopped before it saw the answer. Make the call "
    "again if you still need it."
)
# A plan is bounded by the phases of a turn; more steps than this would be a loop that never waits.
_MAX_STEPS: Final = 64


@dataclass(frozen=True)
class Limits:
    """Bounds of one turn.

    Args:
        rounds: model requests in a turn; the contract names the error but no number, and a turn
            that needs more is more likely lost than long.
        failures: model requests in a row that may fail before the turn is given up.
        backoff_base_s: ceiling of the first retry's delay, in seconds.
        backoff_cap_s: ceiling of the last, in seconds.
        max_tokens: the most that one reply may use.
        mcp_result_chars: text of one MCP result that the model sees (contract 6.25).
        run_s: time that one workflow run may spend running, in seconds; not while it is idle, so
            that people may take their time. The contract names the error but no number.
        window_of: the tokens that a model can read at once; None for one that nobody knows.
        bench: who judges calls under the ``auto`` policy.
    """

    rounds: int = 500
    failures: int = 8
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0
    max_tokens: int = 16_384
    mcp_result_chars: int = 100_000
    run_s: float = 12 * 3600.0
    window_of: Callable[[str], int | None] = field(default=lambda _: None)
    bench: Bench = field(default_factory=Bench)


@dataclass(frozen=True)
class Context:
    """What a decision takes from the outside.

    Args:
        now_us: the time, microseconds since the epoch.
        epoch: the epoch of the lease that the asker holds.
        new_id: makes an event id.
        rand: gives a number in [0, 1).
    """

    now_us: int
    epoch: int
    new_id: Callable[[], str]
    rand: Callable[[], float]
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Append:
    """Append these rows, all or none, and decide again."""

    drafts: Sequence[Draft]


@dataclass(frozen=True)
class CallModel:
    """Send a request; its start is in the log and ``message_id`` is the reply's event id.

    ``compacts`` says that the reply is to stand for the conversation, and is no part of it.
    """

    request: ModelRequest
    opened: OpenRequest
    message_id: str
    compacts: bool = False


@dataclass(frozen=True)
class ListTools:
    """Ask these MCP servers for their tools."""

    servers: Sequence[McpServer]


@dataclass(frozen=True)
class MakeCalls:
    """Perform these calls, whose starts are in the log."""

    calls: Sequence[Call]


@dataclass(frozen=True)
class Wait:
    """Nothing to do until an input comes, or until a time: let go of the session."""

    until_us: int | None = None


Effect = CallModel | AskGrader | AskJudge | ListTools | MakeCalls | Wait
Command = Append | Effect


def plan(view: View, context: Context) -> tuple[list[Draft], Effect]:
    """Return every row that can be written at once, and the effect that comes after them.

    The rows of several decisions share one transaction; a decision that follows from rows not yet
    written is made on the view as it will be.
    """
    drafts: list[Draft] = []
    for _ in range(_MAX_STEPS):
        command = decide(view, context)
        if not isinstance(command, Append):
            return drafts, command
        added = identified(command.drafts, context.new_id)
        drafts += added
        view = view.expect(added, context.now_us, context.new_id)
    raise RuntimeError(f"session {view.subject.session_id} never comes to an effect")


def decide(view: View, context: Context) -> Command:
    """Return what the session does next."""
    state = view.state
    if state.phase is Phase.TERMINATED:
        return Wait()
    if state.phase is Phase.SAMPLING:
        return _sampling(view, context)
    waiting = {item.type for item in state.queued}
    if "user.interrupt" in waiting:
        return _interrupted(view, context)
    if "user.tool_confirmation" in waiting:
        return _confirmed(view)
    match state.phase:
        case Phase.IDLE:
            return _idle(view) if state.own_due else Wait()
        case Phase.PAUSED:
            return Append(running(view)) if state.own_due else Wait()
        case Phase.REQUIRES_ACTION:
            return _requires_action(view, context)
        case Phase.RESCHEDULING:
            return _rescheduling(view, context)
        case _:
            return _running(view, context)


def _sampling(view: View, context: Context) -> Command:
    opened = view.state.request
    if opened is None:
        raise RuntimeError("sampling without a request")
    if opened.reply_id is not None:
        after = judging.step(view, opened, context.limits.bench, context.now_us, context.epoch)
        return after if isinstance(after, AskJudge) else Append(after)
    stopped = any(item.type == "user.interrupt" for item in view.state.queued)
    if opened.epoch != context.epoch or stopped:
        return Append([request_lost(opened.start_id)])
    start = view.find([opened.start_id])[0]
    private = start.private or {}
    message_id = str(private["message_id"])
    if private.get("compaction"):
        request = compaction.request(view, _window(view, context.limits), context.limits.max_tokens)
        return CallModel(request, opened, message_id, compacts=True)
    request = transcript.request(view, context.limits.max_tokens)
    return CallModel(request, opened, message_id)


def _window(view: View, limits: Limits) -> int | None:
    return limits.window_of(str(view.subject.agent["model"]["id"]))


def _interrupted(view: View, context: Context) -> Command:
    """Stop: what waited before the interrupt is heard, open calls are closed, the turn ends.

    Nothing is sampled (contract 15.13 to 15.17); inputs behind the interrupt are the next turn's.
    Where a turn was due and had not begun, it begins and ends here: who asked for it and stopped it
    waits for an idle.
    """
    waiting = view.waiting()
    last = max(i for i, record in enumerate(waiting) if record.type == "user.interrupt")
    heard, stopped = waiting[: last + 1], evaluation.interrupted(view, waiting[last].seq)
    drafts = running(view) if _unbegun(view, heard, stopped) else []
    drafts += [processed(record) for record in heard]
    after = view.expect(drafts, context.now_us, context.new_id)
    drafts += _close(after.state.calls, INTERRUPTED, view)
    drafts += stopped
    if after.state.phase is not Phase.IDLE:
        drafts += resting(after, context.now_us, "end_turn")
    return Append(drafts)


def _unbegun(view: View, heard: Sequence[Record], stopped: Sequence[Draft]) -> bool:
    """Tell whether an interrupt takes what would have begun a turn: words, or an outcome."""
    if view.state.phase is not Phase.IDLE:
        return False
    opens = any(record.type in OPENERS for record in heard)
    return opens or (bool(stopped) and view.state.next_aim)


def _confirmed(view: View) -> Command:
    """Hear the confirmations; run again if one allows something or none is left to wait for."""
    heard = [record for record in view.waiting() if record.type == "user.tool_confirmation"]
    drafts = [processed(record) for record in heard]
    if view.state.phase is Phase.REQUIRES_ACTION:
        allowed = any(record.body["result"] == Permission.ALLOW for record in heard)
        decided = {record.body["tool_use_id"] for record in heard}
        if allowed or decided >= set(view.state.blocking):
            drafts = running(view) + drafts
    denials = {
        record.body["tool_use_id"]: record
        for record in heard
        if record.body["result"] == Permission.DENY
    }
    for call in view.state.calls:
        if call.id in denials and not (call.kind is CallKind.SANDBOX and view.state.self_hosted):
            drafts.append(_denied(call, denials[call.id], view))
    return Append(drafts)


def _denied(call: Call, confirmation: Record, view: View) -> Draft:
    text = denial(confirmation)["content"][0]["text"]
    return error_result(call, text, self_hosted=view.state.self_hosted)


def _idle(view: View) -> Command:
    """Open a turn with everything that was said (AMB 26)."""
    heard = [processed(record) for record in view.waiting()]
    return Append(running(view) + heard + evaluation.begin(view))


def _requires_action(view: View, context: Context) -> Command:
    if not view.state.blocking:
        if not view.state.calls and view.state.capped():
            return Append(resting(view, context.now_us, "budget_reached"))
        return Append(running(view))
    if view.state.blocking != view.state.announced:
        return Append(resting(view, context.now_us, "requires_action"))
    return Wait()


def _rescheduling(view: View, context: Context) -> Command:
    retry_at_us = view.state.retry_at_us or 0
    return Wait(retry_at_us) if context.now_us < retry_at_us else Append(running(view))


def _running(view: View, context: Context) -> Command:
    state = view.state
    if refused := [call for call in state.calls if call.refused]:
        return Append([_refusal(call, view) for call in refused])
    if performed := [c for c in state.calls if _ours(c)]:
        return _perform(performed, view, context)
    until_us = min((c.until_us for c in state.calls if c.until_us is not None), default=None)
    if until_us is not None and until_us <= context.now_us:
        return Append(_give_up(view, context.now_us))
    if state.blocking:
        return Append(resting(view, context.now_us, "requires_action"))
    if state.calls:
        return Wait(until_us)
    if state.ending == "end_turn" and state.aim is not None and not state.crew_works:
        after = evaluation.step(view, state.aim, context.now_us, context.epoch)
        return after if isinstance(after, AskGrader) else Append(after)
    if state.ending is not None:
        return Append(_end(view, context))
    return _next_request(view, context)


def _ours(call: Call) -> bool:
    """Tell whether this server has still to make a call."""
    return call.kind in OUTSIDE and call.permitted and call.until_us is None


def _give_up(view: View, now_us: int) -> list[Draft]:
    """Answer the calls that were handed to workers and not answered in time."""
    late = [c for c in view.state.calls if c.until_us is not None and c.until_us <= now_us]
    hosted = view.state.self_hosted
    return [error_result(call, WEB_UNANSWERED, self_hosted=hosted) for call in late]


def _refusal(call: Call, view: View) -> Draft:
    """Answer a call that was refused before any policy applied (contract 6.14)."""
    use = view.find([call.id])[0]
    text = str((use.private or {}).get("refusal", "This call was refused."))
    return error_result(call, text, self_hosted=view.state.self_hosted)


def _perform(calls: Sequence[Call], view: View, context: Context) -> Command:
    """Begin calls: the log knows of each before it is made, so that none is made twice."""
    fresh = [call for call in calls if call.started_epoch is None]
    lost = [call for call in calls if call.started_epoch not in (None, context.epoch)]
    if not fresh and not lost:
        return MakeCalls(calls)
    repeatable = {
        (tool.server, tool.bare_name) for tool in view.tools().values() if tool.repeatable
    }
    drafts: list[Draft] = []
    for call in calls:
        body = view.find([call.id])[0].body
        again = (body.get("mcp_server_name"), body["name"]) in repeatable
        if call in lost and (call.kind is CallKind.WEB or not again):
            # A search is paid for, and a page may count who reads it: nothing is sent twice.
            text = WEB_LOST if call.kind is CallKind.WEB else UNKNOWN_OUTCOME
            drafts.append(error_result(call, text, self_hosted=view.state.self_hosted))
        elif call in fresh or call in lost:
            drafts.append(_started(call, context.epoch))
    return Append(drafts)


def _started(call: Call, epoch: int) -> Draft:
    if call.kind is CallKind.WEB:
        return Draft("internal.web_call_started", {"tool_use_id": call.id, "epoch": epoch})
    return Draft("internal.mcp_call_started", {"mcp_tool_use_id": call.id, "epoch": epoch})


def _end(view: View, context: Context) -> list[Draft]:
    stop = view.state.ending or "end_turn"
    details = None
    if stop == "refusal":
        details = {"type": "refusal", "category": None, "explanation": None}
    return resting(view, context.now_us, stop, details)


def _next_request(view: View, context: Context) -> Command:
    state, limits = view.state, context.limits
    if state.failures > limits.failures:
        message = f"the model did not answer in {state.failures} attempts"
        error = failure("model_request_failed_error", message, "exhausted")
        return Append(exhausted(view, context.now_us, error))
    if state.rounds >= limits.rounds:
        message = f"the turn reached its limit of {limits.rounds} rounds of tool use"
        error = failure("tool_use_limit_reached_error", message, "exhausted")
        return Append(exhausted(view, context.now_us, error))
    if state.capped(context.now_us):
        return Append(resting(view, context.now_us, "budget_reached"))
    servers = view.subject.servers
    if servers and state.mcp_turn != state.turn:
        return ListTools(servers)
    mark = {"epoch": context.epoch, "message_id": context.new_id()}
    if compaction.due(view, _window(view, limits), limits.max_tokens):
        if state.compactions >= compaction.MAX_IN_A_ROW:
            message = f"{state.compactions} summaries in a row left no room for a reply"
            error = failure("compaction_limit_reached_error", message, "exhausted")
            return Append(exhausted(view, context.now_us, error))
        return Append([Draft("span.model_request_start", private={**mark, "compaction": True})])
    return Append(
        [
            *(processed(record) for record in _accompanying(view)),
            Draft("span.model_request_start", private=mark),
        ]
    )


def _accompanying(view: View) -> list[Record]:
    """Return waiting operator text that came with a tool result of this turn (contract 13.15).

    What stands behind a waiting message belongs to that message's turn.
    """
    taken = []
    for record in view.waiting():
        if record.type != "system.message":
            break
        taken.append(record)
    return taken


def _close(calls: Sequence[Call], text: str, view: View) -> list[Draft]:
    return [error_result(call, text, self_hosted=view.state.self_hosted) for call in calls]
