"""How a record changes one thread: the only one of a session, or one of several. Pure.

The same rules as in ``fold.py``, which says what a record means to a session as a whole.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, cast

from intramuros.control.session import opinion, outcomes, runs
from intramuros.control.session.calls import (
    OUTSIDE,
    RESULTS,
    USES,
    Call,
    CallKind,
    Permission,
    answers,
    kind_of,
)
from intramuros.control.session.outcomes import pursue
from intramuros.control.session.phase import (
    AFTERLIFE,
    AWAIT,
    END,
    OPENERS,
    PAUSE,
    QUEUEABLE,
    RETRY,
    RUN,
    STEADY,
    STOP,
    TRANSITIONS,
    Phase,
)
from intramuros.control.session.state import OpenRequest, Queued, State
from intramuros.control.session.usage import add, searched
from intramuros.control.store.records import Record
from intramuros.kernel.errors import IntramurosError

if TYPE_CHECKING:
    from dataclasses import replace
else:
    from intramuros.kernel.fields import replace

# What a request and its reply take of the model's window.
_CONTEXT: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
)


class IllegalRecord(IntramurosError):
    """A record that cannot follow the log so far: find who wrote it."""


def step(state: State, record: Record) -> State:
    """Return one thread after one more record of its own."""
    state = replace(state, phase=_move(state, record), last_seq=record.seq)
    if record.queued:
        return _enqueue(state, record)
    change = _CHANGES.get(record.type)
    return state if change is None else change(state, record)


def _move(state: State, record: Record) -> Phase:
    symbol = record.type
    if record.queued and symbol not in QUEUEABLE:
        raise IllegalRecord(f"{symbol} cannot wait for a turn")
    if symbol == END and _stop_type(record) == "requires_action":
        symbol = AWAIT
    elif symbol == END and (record.private or {}).get("paused"):
        symbol = PAUSE
    if (target := TRANSITIONS[state.phase].get(symbol)) is not None:
        return target
    allowed = AFTERLIFE if state.phase is Phase.TERMINATED else STEADY | AFTERLIFE
    if symbol not in allowed:
        raise IllegalRecord(f"{symbol} cannot happen while {state.phase}")
    return state.phase


def _stop_type(record: Record) -> str:
    return cast("str", cast("Mapping[str, object]", record.body["stop_reason"])["type"])


def _enqueue(state: State, record: Record) -> State:
    if record.type == "user.tool_confirmation":
        call = _open_call(state, record, "tool_use_id")
        if call.permission is not Permission.ASK or call.confirmation_id is not None:
            raise IllegalRecord(f"{call.id} does not wait for a confirmation")
        state = _with_call(state, replace(call, confirmation_id=record.id))
    return replace(state, queued=(*state.queued, Queued(record.id, record.type)))


def _consume(state: State, record: Record) -> State:
    rest = tuple(item for item in state.queued if item.id != record.id)
    if len(rest) == len(state.queued):
        raise IllegalRecord(f"{record.type} {record.id} did not wait")
    if state.phase is Phase.SAMPLING:
        raise IllegalRecord(f"{record.type} cannot be consumed while sampling")
    # What is heard behind the agent's last word makes it go on.
    ending = None if record.type in OPENERS else state.ending
    return replace(state, queued=rest, ending=ending)


def _confirm(state: State, record: Record) -> State:
    state = _consume(state, record)
    call = state.call(cast("str", record.body["tool_use_id"]))
    if call is None:
        return state  # its result came before the loop looked at the confirmation
    decision = Permission(cast("str", record.body["result"]))
    if decision is Permission.DENY and call.kind is CallKind.SANDBOX and state.self_hosted:
        # The denial itself settles the call: no result will come (contract 15.11).
        return _without_call(state, call.id)
    return _with_call(state, replace(call, decision=decision))


def _use(state: State, record: Record) -> State:
    permission = Permission(cast("str", record.body.get("evaluated_permission", "allow")))
    call = Call(record.id, kind_of(record.type, record.body), permission)
    return replace(state, calls=(*state.calls, call))


def _answer(state: State, record: Record) -> State:
    call = _open_call(state, record, RESULTS[record.type][1])
    if not answers(record.type, call.kind):
        raise IllegalRecord(f"{record.type} cannot answer the {call.kind} call {call.id}")
    return replace(_without_call(state, call.id), usage=searched(state.usage, record))


def _run(state: State, record: Record) -> State:
    opens = state.stop not in ("requires_action", "budget_reached") and state.retry_at_us is None
    return replace(
        state,
        turn=state.turn + opens,
        rounds=0 if opens else state.rounds,
        failures=0 if opens else state.failures,
        compactions=0 if opens else state.compactions,
        retry_at_us=None,
        stop=None,
        ending=None if opens else state.ending,
        announced=(),
        running_since_us=record.at_us,
    )


def _rest(state: State, record: Record) -> State:
    stop = _stop_type(record)
    reason = cast("Mapping[str, object]", record.body["stop_reason"])
    announced = tuple(cast("list[str]", reason.get("event_ids", [])))
    if stop == "requires_action":
        if not announced or announced != state.blocking:
            raise IllegalRecord("an idle asks for exactly the calls that block")
    elif state.calls:
        raise IllegalRecord("a turn cannot end with open calls")
    elif stop == "budget_reached" and state.phase is not Phase.PAUSED:
        stop = "end_turn"  # the cap stops what comes next; this turn is over
    return replace(clocked(state, record), stop=stop, announced=announced, retry_at_us=None)


def _reschedule(state: State, record: Record) -> State:
    private = record.private or {}
    return replace(clocked(state, record), retry_at_us=cast("int", private["retry_at_us"]))


def _terminate(state: State, record: Record) -> State:
    ended = clocked(state, record)
    return replace(ended, queued=(), calls=(), announced=(), retry_at_us=None, aims=())


def clocked(state: State, record: Record) -> State:
    """Return the state with its clock stopped at a record, if it ran."""
    if state.running_since_us is None:
        return state
    active_us = state.active_us + max(0, record.at_us - state.running_since_us)
    return replace(state, active_us=active_us, running_since_us=None)


def _ask_model(state: State, record: Record) -> State:
    if state.calls:
        raise IllegalRecord("a model request needs every call answered")
    if state.aim and state.aim.start_id:
        raise IllegalRecord("a model request cannot start while the work is evaluated")
    epoch = cast("int", (record.private or {})["epoch"])
    request = OpenRequest(record.id, record.seq, epoch)
    return replace(state, request=request)


def _hear_model(state: State, record: Record) -> State:
    if state.request is None or record.body["model_request_start_id"] != state.request.start_id:
        raise IllegalRecord(f"{record.id} ends a request that is not open")
    counts = cast("Mapping[str, int]", record.body["model_usage"])
    private = record.private or {}
    failed = bool(record.body.get("is_error"))
    # What was withheld makes it another request.
    another = failed and bool(private.get("withheld"))
    state = replace(
        state,
        request=None,
        ending=cast("str | None", private.get("ending")),
        usage=add(state.usage, counts, private),
        rounds=state.rounds + (not failed),
        failures=state.failures + (not another) if failed else 0,
        withheld=state.withheld + another if failed and not private.get("restored") else 0,
    )
    if failed:
        return replace(state, overflowed=state.overflowed or bool(private.get("overflow")))
    if private.get("compaction"):
        return replace(state, compactions=state.compactions + 1)
    return replace(
        state,
        context_tokens=sum(counts.get(name, 0) for name in _CONTEXT),
        compactions=0,
        overflowed=private.get("stop_reason") == "model_context_window_exceeded",
    )


def _judge(state: State, record: Record) -> State:
    """Follow the judging of a reply's calls, while its request stays open."""
    request = state.request
    if request is None or record.body.get("reply_id") != request.reply_id:
        raise IllegalRecord(f"{record.type} is about a reply that is not being judged")
    if record.type == opinion.JUDGED:
        counts = cast("Mapping[str, int]", record.body["usage"])
        return replace(state, usage=add(state.usage, counts, record.private or {}))
    epoch = cast("int", record.body["epoch"])
    if record.type == opinion.AGAIN:
        request = replace(request, judge_epoch=epoch, lost=request.lost + 1)
    else:
        request = replace(request, reply_id=record.id, judge_epoch=epoch)
    return replace(state, request=request)


def _compact(state: State, record: Record) -> State:
    # How much is left is known with the next reply.
    return replace(state, context_tokens=0, overflowed=False)


def _announce(state: State, record: Record) -> State:
    if record.body["session_thread_id"] != state.thread_id:
        raise IllegalRecord(f"unknown thread {record.body['session_thread_id']}")
    return replace(state, thread_announced=True)


def _limit(state: State, record: Record) -> State:
    if "budget" not in record.body:
        return state
    budget = cast("Mapping[str, Mapping[str, str]] | None", record.body["budget"])
    cents = None if budget is None else int(budget["max_list_cost"]["amount"])
    return replace(state, budget_cents=cents)


def _receive(state: State, record: Record) -> State:
    """Hear what another agent said; advice answers a call of this very turn, so it never waited."""
    return state if (record.private or {}).get("advice") else _consume(state, record)


def _heed(state: State, record: Record) -> State:
    """Take note of an interrupt of the whole session, whose own row is the primary thread's."""
    interrupt_id = record.body["interrupt_id"]
    return replace(state, queued=tuple(i for i in state.queued if i.id != interrupt_id))


def _pursue(state: State, record: Record) -> State:
    try:
        aims = pursue(state.aims, record)
    except LookupError as error:
        raise IllegalRecord(str(error)) from error
    if record.type == outcomes.GRADED:
        counts = cast("Mapping[str, int]", record.body["usage"])
        failures = state.failures + 1 if record.body["failed"] else 0
        usage = add(state.usage, counts, record.private or {})
        return replace(state, aims=aims, usage=usage, failures=failures)
    if record.type == outcomes.END and record.body["result"] in outcomes.HEARD:
        return replace(state, aims=aims, ending=None, rounds=0)
    return replace(state, aims=aims)


def _know_tools(state: State, record: Record) -> State:
    return replace(state, mcp_turn=cast("int", record.body["turn"]))


def _start_call(state: State, record: Record) -> State:
    member = "mcp_tool_use_id" if record.type == "internal.mcp_call_started" else "tool_use_id"
    call = _open_call(state, record, member)
    if call.kind not in OUTSIDE or not call.permitted:
        raise IllegalRecord(f"{call.id} may not be performed")
    return _with_call(state, replace(call, started_epoch=cast("int", record.body["epoch"])))


def _hand_over(state: State, record: Record) -> State:
    call = _open_call(state, record, "tool_use_id")
    if call.kind is not CallKind.WEB or call.started_epoch is None:
        raise IllegalRecord(f"{call.id} may not be handed over")
    return _with_call(state, replace(call, until_us=cast("int", record.body["until_us"])))


def _open_call(state: State, record: Record, member: str) -> Call:
    use_id = cast("str", record.body[member])
    if (call := state.call(use_id)) is None:
        raise IllegalRecord(f"{record.type} names {use_id}, which is not open")
    return call


def _with_call(state: State, changed: Call) -> State:
    calls = tuple(changed if call.id == changed.id else call for call in state.calls)
    return replace(state, calls=calls)


def _without_call(state: State, use_id: str) -> State:
    return replace(state, calls=tuple(call for call in state.calls if call.id != use_id))


_CHANGES: Final[Mapping[str, Callable[[State, Record], State]]] = {
    "user.message": _consume,
    "user.interrupt": _consume,
    "system.message": _consume,
    "user.tool_confirmation": _confirm,
    **dict.fromkeys(USES, _use),
    **dict.fromkeys(RESULTS, _answer),
    RUN: _run,
    END: _rest,
    RETRY: _reschedule,
    STOP: _terminate,
    "span.model_request_start": _ask_model,
    "span.model_request_end": _hear_model,
    "agent.thread_context_compacted": _compact,
    "session.thread_status_running": _announce,
    "session.thread_status_idle": _announce,
    "session.thread_status_rescheduled": _announce,
    "session.thread_status_terminated": _announce,
    "internal.budget": _limit,
    "session.updated": _limit,
    **dict.fromkeys(
        (
            outcomes.DEFINE,
            outcomes.BEGIN,
            outcomes.START,
            outcomes.ONGOING,
            outcomes.GRADED,
            outcomes.END,
        ),
        _pursue,
    ),
    **dict.fromkeys((opinion.HELD, opinion.AGAIN, opinion.JUDGED), _judge),
    "internal.mcp_listed": _know_tools,
    "internal.mcp_call_started": _start_call,
    "internal.web_call_started": _start_call,
    "internal.web_call_handed": _hand_over,
    "agent.thread_message_received": _receive,
    "internal.consultation": _consume,
    runs.REPORT: _consume,
    "internal.interrupt_heard": _heed,
}
