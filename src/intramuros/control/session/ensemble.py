"""What a session with several threads does next: a function of its log. Pure.

Each thread is decided on by :func:`intramuros.control.session.turn.decide`, as if it were alone;
here its rows are given to it, and what concerns the others is added: the session's status, reports
to the primary thread, what of a child its view shows (contract 17.11, 19.9).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from intramuros.control.session import delegation, workflow
from intramuros.control.session.calls import RESULTS, USES, Call, CallKind, kind_of
from intramuros.control.session.drafts import resting, thread_ended
from intramuros.control.session.phase import END, OF_THREAD, RETRY, RUN, Phase, Status
from intramuros.control.session.state import Member, State
from intramuros.control.session.turn import Append, Command, Context, Effect, Wait, decide
from intramuros.control.session.view import View, identified
from intramuros.control.store.records import Draft
from intramuros.protocol.resources.multiagent import CONSULT_TOOL

if TYPE_CHECKING:
    from dataclasses import replace
else:
    from intramuros.kernel.fields import replace

# Rounds over all threads; each round but the last writes something that another thread waits for.
_MAX_ROUNDS: Final = 1024
# Steps of one thread until it comes to an effect.
_MAX_STEPS: Final = 64

_OF_SESSION: Final = frozenset({RUN, END, RETRY, "session.usage"})
# A child's rows that the session's view shows beside status events and calls that others perform.
_SHARED: Final = frozenset(
    {
        *OF_THREAD,
        "session.error",
    }
)
_ROUTED: Final = frozenset({"user.tool_result", "user.custom_tool_result"})
_ANSWERS: Final = _ROUTED | {"agent.tool_result"}
_SILENT: Final = "(The agent ended its turn without a message.)"
_NO_ADVICE: Final = "The consultation failed; go on without it."


def plan(
    view: View, context: Context, busy: Collection[str] = ()
) -> tuple[list[Draft], Mapping[str, Effect]]:
    """Return every row that can be written at once, and what each thread does after them.

    Args:
        view: the session's.
        busy: the threads whose effect is being performed; they are left to it unless it was
            interrupted, and are then missing in the answer. Workflow runs wait there under their
            own ids.
    """
    drafts: list[Draft] = []
    effects: dict[str, Effect] = {}
    decided: dict[str, State] = {}
    for _ in range(_MAX_ROUNDS):
        thread = _undecided(view, decided, busy)
        if thread is None:
            moved, view = workflow.advance(view, context)
            drafts += moved
            if moved:
                continue
            closing = _conclude(view, context)
            return [*drafts, *closing], _wanted(view, effects, context)
        thread_id = thread.thread_id
        added, effect, view = _carry(view, thread_id, context)
        drafts += added
        if (now := _thread(view, thread_id)) is None:
            effects.pop(thread_id, None)
            continue
        decided[thread_id], effects[thread_id] = now, effect
    raise RuntimeError(f"session {view.subject.session_id} never comes to an effect")


def _wanted(view: View, effects: Mapping[str, Effect], context: Context) -> Mapping[str, Effect]:
    """Return the effects of the threads that are still there, and the times that runs wait for."""
    times = workflow.deadlines(view.state, context)
    alive = {thread.thread_id for thread in view.state.threads}
    return {
        **{thread_id: effect for thread_id, effect in effects.items() if thread_id in alive},
        **{run_id: Wait(at_us) for run_id, at_us in times.items()},
    }


def dress(view: View, thread_id: str, drafts: Sequence[Draft]) -> list[Draft]:
    """Return the rows that a thread's decision or outcome comes to.

    Args:
        view: the session's, as it is before them.
        drafts: as if the thread were alone.
    """
    member = view.state.member(thread_id)
    dressed: list[Draft] = []
    for draft in drafts:
        if draft.type in _OF_SESSION:
            if draft.private and dressed and draft.type != RUN:
                place = max(i for i, d in enumerate(dressed) if d.type in OF_THREAD)
                dressed[place] = replace(dressed[place], private=draft.private)
        elif member is None:
            dressed.append(draft)
        else:
            dressed += _of_child(view, member, draft)
    if member is not None:
        dressed = _with_report(view, member, drafts, dressed)
    starts = any(draft.type == "session.thread_status_running" for draft in dressed)
    told = view.state.crew.told if view.state.crew else None
    if starts and told is not Status.RUNNING:
        dressed = [Draft(RUN), *dressed]
    return dressed


def _undecided(view: View, decided: Mapping[str, State], busy: Collection[str]) -> State | None:
    """Return a thread that may have changed since it was decided on."""
    for thread in view.state.threads:
        known = decided.get(thread.thread_id)
        if known is not None and _same(known, thread):
            continue
        if thread.thread_id in busy and not interrupted(thread):
            continue
        if thread is not view.state and thread.phase is Phase.IDLE and not thread.queued:
            continue  # it has nothing to do until somebody writes to it
        return thread
    return None


def interrupted(thread: State) -> bool:
    """Tell whether somebody wants the thread to stop."""
    return any(item.type == "user.interrupt" for item in thread.queued)


def _same(known: State, now: State) -> bool:
    """Compare what a decision looks at; a crew and positions do not matter to it."""
    plain = {"last_seq": 0, "crew": None, "usage": known.usage}
    return replace(known, **plain) == replace(now, **plain)  # type: ignore[arg-type]  # fields


def _carry(view: View, thread_id: str, context: Context) -> tuple[list[Draft], Effect, View]:
    """Take one thread to its next effect."""
    drafts: list[Draft] = []
    # Each call to the crew is a step.
    for _ in range(_MAX_STEPS + len(view.state.calls)):
        if _thread(view, thread_id) is None:
            return drafts, Wait(), view
        command = _decide(view, thread_id, context)
        if not isinstance(command, Append):
            return drafts, command, view
        added = identified(dress(view, thread_id, command.drafts), context.new_id)
        drafts += added
        view = view.expect(added, context.now_us, context.new_id)
    raise RuntimeError(f"thread {thread_id} never comes to an effect")


def _decide(view: View, thread_id: str, context: Context) -> Command:
    state = view.state
    if thread_id != state.thread_id:
        return decide(view.of(thread_id), context)
    if state.phase is Phase.RUNNING and not interrupted(state):
        if state.capped(context.now_us) and (starved := _starved(view)):
            return Append(starved)
        if waiting := delegation.waiting_calls(view):
            return Append(_employed(view, waiting[0], context))
        if any(call.kind is CallKind.CREW and call.permitted for call in state.calls):
            others = tuple(call for call in state.calls if call.kind is not CallKind.CREW)
            return _beside(replace(view, state=replace(state, calls=others)), context)
    return decide(view, context)


def _employed(view: View, call: Call, context: Context) -> list[Draft]:
    """Return the rows of the primary thread's call to others."""
    if view.find([call.id])[0].body["name"] in workflow.TOOLS:
        return workflow.perform(view, call, context)
    return delegation.perform(view, call, context)


def _starved(view: View) -> list[Draft]:
    """Give up the consultations that cannot begin at the budget's cap.

    The primary thread runs as long as it waits for advice, so nobody could raise the budget.
    """
    crew = view.state.crew
    asked = {member.call_id: member for member in crew.members} if crew else {}
    drafts: list[Draft] = []
    for call in view.state.calls:
        use = view.find([call.id])[0]
        if call.kind is not CallKind.CREW or use.body["name"] != CONSULT_TOOL or not call.permitted:
            continue
        advisor = asked.get(call.id)
        if advisor is None or advisor.state.phase is Phase.IDLE:
            drafts.append(delegation.answer(call, _NO_ADVICE, is_error=True))
            drafts += [] if advisor is None else [_ended(advisor)]
    return drafts


def _beside(view: View, context: Context) -> Command:
    """Do what the primary thread can do while an advisor thinks: never end or ask its model."""
    if not view.state.calls:
        return Wait()
    return decide(view, context)


def _thread(view: View, thread_id: str) -> State | None:
    return next((t for t in view.state.threads if t.thread_id == thread_id), None)


def _conclude(view: View, context: Context) -> list[Draft]:
    """Say what the threads add up to, if it is not what was said last (contract 10.25, 15.5)."""
    state = view.state
    if state.told:
        return []
    match state.status:
        case Status.RUNNING:
            return [Draft(RUN)]
        case Status.RESCHEDULING:
            return [Draft(RETRY)]
        case _:
            return _resting(view, context)


def _resting(view: View, context: Context) -> list[Draft]:
    last = view.last("session.thread_status_idle")
    body: Mapping[str, Any] = last.body if last else {"stop_reason": {"type": "end_turn"}}
    asks = list(view.state.asks)
    stop = "requires_action" if asks else str(body["stop_reason"]["type"])
    if stop == "requires_action" and not asks:
        stop = "end_turn"
    details = None if asks else body.get("stop_details")
    drafts = resting(view, context.now_us, stop, cast("Mapping[str, object] | None", details))
    told = []
    for draft in drafts:
        if draft.type == END and asks:
            reason = {"type": stop, "event_ids": asks}
            told.append(replace(draft, body={**draft.body, "stop_reason": reason}))
        elif draft.type in _OF_SESSION:
            told.append(draft)
    return told


def _of_child(view: View, member: Member, draft: Draft) -> list[Draft]:
    """Give a row to the child, and say whether the session's view shows it."""
    thread_id = member.state.thread_id
    if draft.type == "user.interrupt" and draft.thread_id != thread_id:
        # The row of an interrupt of the whole session is the primary thread's.
        return [Draft("internal.interrupt_heard", {"interrupt_id": draft.id}, thread_id=thread_id)]
    if draft.type == "agent.thinking" and member.call_id is not None:
        return []
    body = draft.body
    if draft.type in _ROUTED:
        body = {**body, "session_thread_id": thread_id}
    shared = draft.shared or draft.type in _SHARED or _performed_elsewhere(draft)
    if draft.type in _ANSWERS:
        use_id = str(body[RESULTS[draft.type][1]])
        shared = any(use.shared for use in view.find([use_id]))
    return [replace(draft, body=body, thread_id=thread_id, shared=shared)]


def _performed_elsewhere(draft: Draft) -> bool:
    """Tell whether a call needs a client or worker, who look at the session's view (R128)."""
    if draft.type not in USES:
        return False
    match kind_of(draft.type, draft.body):
        case CallKind.CUSTOM:
            return True
        case CallKind.SANDBOX:
            return draft.body.get("evaluated_permission") != "deny"
        case CallKind.MCP | CallKind.WEB:
            return draft.body.get("evaluated_permission") == "ask"
        case _:
            return False


def _with_report(
    view: View, member: Member, drafts: Sequence[Draft], dressed: list[Draft]
) -> list[Draft]:
    """Add what a child's end of a turn means to the primary thread."""
    place = next((i for i, d in enumerate(dressed) if d.type == "session.thread_status_idle"), None)
    if place is None:
        return dressed
    stop = str(cast("Mapping[str, Any]", dressed[place].body["stop_reason"])["type"])
    if stop == "requires_action" or (stop == "budget_reached" and member.call_id is None):
        return dressed
    stopped = any(draft.type == "user.interrupt" for draft in drafts)
    if member.call_id is not None:
        return _advised(view, member, dressed, place, heard=stop == "end_turn" and not stopped)
    thread_id = member.state.thread_id
    ending = [_ended(member)] if stop == "retries_exhausted" else []
    if member.state.run_id is not None:
        step = _step_ended(view, member, dressed, stop, stopped=stopped)
        return [*dressed[:place], *step, *dressed[place:], *ending]
    if stopped:
        return [*dressed, *ending]
    content = _report_of(view, member, dressed, stop)
    sent, received = delegation.report(view, thread_id, member.name, content)
    return [*dressed[:place], sent, *dressed[place:], *ending, received]


def _step_ended(
    view: View, member: Member, dressed: Sequence[Draft], stop: str, *, stopped: bool
) -> list[Draft]:
    """Say what a step of a workflow run came to, unless that was said before."""
    if member.over:
        return []
    child = view.of(member.state.thread_id)
    if stopped:
        return [workflow.ended(child, (), workflow.INTERRUPTED)]
    said = _report_of(view, member, dressed, stop)
    why = None if stop == "end_turn" else str(said[0]["text"])
    return [workflow.ended(child, said, why)]


def _report_of(
    view: View, member: Member, dressed: Sequence[Draft], stop: str
) -> list[dict[str, Any]]:
    said = delegation.last_words(view.of(member.state.thread_id)) if stop == "end_turn" else []
    if said:
        return said
    text = _SILENT
    if stop == "retries_exhausted":
        errors = [d.body["error"] for d in dressed if d.type == "session.error"]
        why = cast("Mapping[str, Any]", errors[-1])["message"] if errors else "unknown error"
        text = f"(The agent failed and its thread has ended: {why}.)"
    elif stop != "end_turn":
        text = f"(The agent stopped: {stop}.)"
    return [{"type": "text", "text": text}]


def _advised(
    view: View, member: Member, dressed: list[Draft], place: int, *, heard: bool
) -> list[Draft]:
    """Deliver the advice and end its thread, whatever came of it (contract 15.29, 19.14).

    An advisor that would pause at the budget's cap fails (see :func:`_starved`).
    """
    thread_id = member.state.thread_id
    advice = delegation.last_words(view.of(thread_id)) if heard else []
    call = view.state.call(member.call_id or "")
    delivered: list[Draft] = []
    answers: list[Draft] = []
    if call is not None and advice:
        sent, received = delegation.report(view, thread_id, member.name, advice)
        delivered = [sent, replace(received, queued=False, private={"advice": True})]
        answers = [delegation.answer(call, "\n".join(block["text"] for block in advice))]
    elif call is not None:
        answers = [delegation.answer(call, _NO_ADVICE, is_error=True)]
    return [*dressed[:place], *delivered, *answers, *dressed[place:], _ended(member)]


def _ended(member: Member) -> Draft:
    return thread_ended(member.state.thread_id, member.name)
