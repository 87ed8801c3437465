"""What a session's log adds up to. Pure.

Rules that keep this file honest: everything about a session that can change and that the loop or
the API must know without reading the whole log lives in :class:`State`; a record changes it in
:func:`fold` and nowhere else; no clock, no I/O. Folding a log from the start gives the same state
as folding its tail onto a stored one. The size is bounded by what is open: settled calls and
consumed inputs leave the state.

The legal moves are the table of ``phase.py``. A record that it does not allow raises
:class:`IllegalRecord`: that is a mistake of ours, never of a client, whose inputs are judged before
they become records.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, cast

from intramuros.control.session.phase import (
    AFTERLIFE,
    AWAIT,
    END,
    QUEUEABLE,
    RETRY,
    RUN,
    STATUS_OF,
    STEADY,
    STOP,
    TRANSITIONS,
    Phase,
    Status,
)
from intramuros.control.store.records import Record
from intramuros.kernel.errors import IntramurosError


class IllegalRecord(IntramurosError):
    """A record that cannot follow the log so far: find who wrote it."""


class CallKind(StrEnum):
    """Who performs a tool call."""

    SANDBOX = "sandbox"  # a worker, in the session's sandbox
    MCP = "mcp"  # this server, at an MCP server
    CUSTOM = "custom"  # the client's own program


class Permission(StrEnum):
    """What the policy said of a call (contract 6.10)."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


USES: Final[Mapping[str, CallKind]] = {
    "agent.tool_use": CallKind.SANDBOX,
    "agent.mcp_tool_use": CallKind.MCP,
    "agent.custom_tool_use": CallKind.CUSTOM,
}

# result type → (kind it answers, member that names the call)
RESULTS: Final[Mapping[str, tuple[CallKind, str]]] = {
    "user.tool_result": (CallKind.SANDBOX, "tool_use_id"),
    "agent.tool_result": (CallKind.SANDBOX, "tool_use_id"),
    "user.custom_tool_result": (CallKind.CUSTOM, "custom_tool_use_id"),
    "agent.mcp_tool_result": (CallKind.MCP, "mcp_tool_use_id"),
}


@dataclass(frozen=True)
class Queued:
    """An input that has arrived and waits for the loop."""

    id: str
    type: str


@dataclass(frozen=True)
class Call:
    """A tool call without a result.

    Args:
        id: the event id of the tool use.
        kind: who performs it.
        permission: what the policy said.
        confirmation_id: the confirmation that has arrived, consumed or not.
        decision: what the consumed confirmation said.
        started_epoch: the lease epoch under which this server began the call (MCP only).
    """

    id: str
    kind: CallKind
    permission: Permission = Permission.ALLOW
    confirmation_id: str | None = None
    decision: Permission | None = None
    started_epoch: int | None = None

    @property
    def held(self) -> bool:
        """True while the call waits for a confirmation."""
        return self.permission is Permission.ASK and self.decision is None

    @property
    def permitted(self) -> bool:
        """True if the call may be performed."""
        return Permission.ALLOW in (self.permission, self.decision)

    @property
    def refused(self) -> bool:
        """True if the call must never be performed."""
        return Permission.DENY in (self.permission, self.decision)


@dataclass(frozen=True)
class OpenRequest:
    """A model request without an end: its start event, log position and lease epoch."""

    start_id: str
    seq: int
    epoch: int


@dataclass(frozen=True)
class UsageTotals:
    """Tokens since the session began (contract 10.29)."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


@dataclass(frozen=True)
class State:
    """A session through ``last_seq``.

    Args:
        thread_id: the primary thread's id.
        self_hosted: whether a worker of the customer performs sandbox calls, so that they block
            the turn as a required action (contract 15.7).
        last_seq: the newest record folded in; 0 for an empty log.
        turn: how many turns have opened.
        rounds: replies in this turn.
        failures: failed model requests since the last good one, in this turn.
        retry_at_us: when a rescheduled turn goes on.
        stop: the ``stop_reason`` type of the last idle, None before the first one or while running.
        ending: the ``stop_reason`` type with which the last reply ended the turn; None to go on.
        announced: the call ids that the last idle asked for.
        mcp_turn: the turn whose MCP tools are known.
        active_us: time spent running up to ``running_since_us``.
    """

    thread_id: str
    self_hosted: bool
    phase: Phase = Phase.IDLE
    last_seq: int = 0
    thread_announced: bool = False
    queued: tuple[Queued, ...] = ()
    calls: tuple[Call, ...] = ()
    request: OpenRequest | None = None
    turn: int = 0
    rounds: int = 0
    failures: int = 0
    retry_at_us: int | None = None
    stop: str | None = None
    ending: str | None = None
    announced: tuple[str, ...] = ()
    mcp_turn: int = 0
    usage: UsageTotals = field(default_factory=UsageTotals)
    active_us: int = 0
    running_since_us: int | None = None

    @property
    def status(self) -> Status:
        """The status as the API shows it."""
        return STATUS_OF[self.phase]

    @property
    def blocking(self) -> tuple[str, ...]:
        """The ids of calls that wait for a client or worker, in the model's order."""
        return tuple(call.id for call in self.calls if self._blocks(call))

    @property
    def due(self) -> bool:
        """True if the loop has something to do now; a retry's time is the lease's business."""
        if self.phase is Phase.TERMINATED:
            return False
        waiting = {item.type for item in self.queued}
        if waiting & {"user.interrupt", "user.tool_confirmation"}:
            return True
        match self.phase:
            case Phase.IDLE:
                return "user.message" in waiting
            case Phase.REQUIRES_ACTION:
                return self.blocking != self.announced
            case Phase.RUNNING:
                return not self.calls or any(not self._performed_elsewhere(c) for c in self.calls)
            case Phase.SAMPLING:
                return True
            case _:
                return False

    def call(self, use_id: str) -> Call | None:
        """Return the open call of that tool use, or None if it is settled or unknown."""
        return next((call for call in self.calls if call.id == use_id), None)

    def active_s(self, now_us: int) -> float:
        """Return the seconds spent running until now (contract 10.27)."""
        since = now_us if self.running_since_us is None else self.running_since_us
        return (self.active_us + max(0, now_us - since)) / 1_000_000

    def dump(self) -> dict[str, object]:
        """Return the state as JSON values; :func:`load` gives it back."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "phase": self.phase.value,
            "queued": [[item.id, item.type] for item in self.queued],
            "calls": [_dump_call(call) for call in self.calls],
            "request": self.request
            and [self.request.start_id, self.request.seq, self.request.epoch],
            "announced": list(self.announced),
            "usage": dict(vars(self.usage)),
        }

    def _performed_elsewhere(self, call: Call) -> bool:
        """Tell whether the session stays running until somebody else's result arrives."""
        return call.kind is CallKind.SANDBOX and call.permitted and not self.self_hosted

    def _blocks(self, call: Call) -> bool:
        match call.kind:
            case CallKind.CUSTOM:
                return not call.refused
            case CallKind.SANDBOX:
                return call.held or (self.self_hosted and call.permitted)
            case CallKind.MCP:
                return call.held


def initial(thread_id: str, *, self_hosted: bool) -> State:
    """Return the state of an empty log (contract 10.9)."""
    return State(thread_id=thread_id, self_hosted=self_hosted)


def load(dumped: Mapping[str, object]) -> State:
    """Return the state that :meth:`State.dump` wrote."""
    values = cast("Mapping[str, list[list[str]]]", dumped)
    request = cast("list[object] | None", dumped["request"])
    return State(
        **{name: dumped[name] for name in _PLAIN},  # type: ignore[arg-type]  # dump wrote them
        phase=Phase(cast("str", dumped["phase"])),
        queued=tuple(Queued(*item) for item in values["queued"]),
        calls=tuple(_load_call(item) for item in cast("list[dict[str, object]]", dumped["calls"])),
        request=OpenRequest(*request) if request else None,  # type: ignore[arg-type]  # as above
        announced=tuple(cast("list[str]", dumped["announced"])),
        usage=UsageTotals(**cast("dict[str, int]", dumped["usage"])),
    )


def fold(state: State, record: Record) -> State:
    """Return the state after one more record.

    Raises:
        IllegalRecord: the record cannot follow this log.
    """
    if record.seq != state.last_seq + 1:
        raise IllegalRecord(f"record {record.seq} cannot follow {state.last_seq}")
    state = replace(state, phase=_move(state, record), last_seq=record.seq)
    if record.queued:
        return _enqueue(state, record)
    change = _CHANGES.get(record.type)
    return state if change is None else change(state, record)


_PLAIN: Final = (
    "thread_id",
    "self_hosted",
    "last_seq",
    "thread_announced",
    "turn",
    "rounds",
    "failures",
    "retry_at_us",
    "stop",
    "ending",
    "mcp_turn",
    "active_us",
    "running_since_us",
)


def _move(state: State, record: Record) -> Phase:
    symbol = record.type
    if record.queued and symbol not in QUEUEABLE:
        raise IllegalRecord(f"{symbol} cannot wait for a turn")
    if symbol == END and _stop_type(record) == "requires_action":
        symbol = AWAIT
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
    return replace(state, queued=rest)


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
    call = Call(record.id, USES[record.type], permission)
    return replace(state, calls=(*state.calls, call))


def _answer(state: State, record: Record) -> State:
    kind, member = RESULTS[record.type]
    call = _open_call(state, record, member)
    if call.kind is not kind:
        raise IllegalRecord(f"{record.type} cannot answer the {call.kind} call {call.id}")
    return _without_call(state, call.id)


def _run(state: State, record: Record) -> State:
    opens = state.stop != "requires_action" and state.retry_at_us is None
    return replace(
        state,
        turn=state.turn + opens,
        rounds=0 if opens else state.rounds,
        failures=0 if opens else state.failures,
        retry_at_us=None,
        stop=None,
        ending=None,
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
    return replace(_clocked(state, record), stop=stop, announced=announced, retry_at_us=None)


def _reschedule(state: State, record: Record) -> State:
    private = record.private or {}
    return replace(_clocked(state, record), retry_at_us=cast("int", private["retry_at_us"]))


def _terminate(state: State, record: Record) -> State:
    return replace(_clocked(state, record), queued=(), calls=(), announced=(), retry_at_us=None)


def _clocked(state: State, record: Record) -> State:
    if state.running_since_us is None:
        return state
    active_us = state.active_us + max(0, record.at_us - state.running_since_us)
    return replace(state, active_us=active_us, running_since_us=None)


def _ask_model(state: State, record: Record) -> State:
    if state.calls:
        raise IllegalRecord("a model request needs every call answered")
    epoch = cast("int", (record.private or {})["epoch"])
    request = OpenRequest(record.id, record.seq, epoch)
    return replace(state, request=request)


def _hear_model(state: State, record: Record) -> State:
    if state.request is None or record.body["model_request_start_id"] != state.request.start_id:
        raise IllegalRecord(f"{record.id} ends a request that is not open")
    spent = cast("Mapping[str, int]", record.body["model_usage"])
    totals = {name: count + spent[name] for name, count in vars(state.usage).items()}
    failed = bool(record.body.get("is_error"))
    return replace(
        state,
        request=None,
        ending=cast("str | None", (record.private or {}).get("ending")),
        usage=UsageTotals(**totals),
        rounds=state.rounds + (not failed),
        failures=state.failures + 1 if failed else 0,
    )


def _announce(state: State, record: Record) -> State:
    if record.body["session_thread_id"] != state.thread_id:
        raise IllegalRecord(f"unknown thread {record.body['session_thread_id']}")
    return replace(state, thread_announced=True)


def _know_tools(state: State, record: Record) -> State:
    return replace(state, mcp_turn=cast("int", record.body["turn"]))


def _start_call(state: State, record: Record) -> State:
    call = _open_call(state, record, "mcp_tool_use_id")
    if call.kind is not CallKind.MCP or not call.permitted:
        raise IllegalRecord(f"{call.id} may not be performed")
    return _with_call(state, replace(call, started_epoch=cast("int", record.body["epoch"])))


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


def _dump_call(call: Call) -> dict[str, object]:
    """Leave out what is None, as most of a call is."""
    return {name: value for name, value in vars(call).items() if value is not None}


def _load_call(dumped: Mapping[str, object]) -> Call:
    values = dict(dumped)
    values["kind"] = CallKind(cast("str", values["kind"]))
    values["permission"] = Permission(cast("str", values["permission"]))
    if "decision" in values:
        values["decision"] = Permission(cast("str", values["decision"]))
    return Call(**values)  # type: ignore[arg-type]  # dump wrote them


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
    "session.thread_status_running": _announce,
    "session.thread_status_idle": _announce,
    "session.thread_status_rescheduled": _announce,
    "session.thread_status_terminated": _announce,
    "internal.mcp_listed": _know_tools,
    "internal.mcp_call_started": _start_call,
}
