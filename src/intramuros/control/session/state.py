"""What a session's log adds up to. Pure.

Everything about a session that can change and that the loop or the API must know without reading
the whole log lives in :class:`State`; ``fold.py`` says how a record changes it. The size is bounded
by what is open: settled calls and consumed inputs leave the state.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from intramuros.control.session import outcomes, runs
from intramuros.control.session.calls import Call, CallKind, dump_call, load_call
from intramuros.control.session.outcomes import Aim, Aims
from intramuros.control.session.phase import OPENERS, STATUS_OF, Phase, Status
from intramuros.control.session.runs import Run, Stand
from intramuros.control.session.usage import SECOND_US, UsageTotals, capped, running_us

if TYPE_CHECKING:
    from dataclasses import replace
else:
    from intramuros.kernel.fields import replace


@dataclass(frozen=True)
class Queued:
    """An input that has arrived and waits for the loop."""

    id: str
    type: str


@dataclass(frozen=True)
class OpenRequest:
    """A model request without an end: its start event, log position and lease epoch.

    Args:
        reply_id: the mark that holds its reply while calls of it are judged.
        judge_epoch: the lease epoch under which they are.
        lost: how often whoever judged them was lost.
    """

    start_id: str
    seq: int
    epoch: int
    reply_id: str | None = None
    judge_epoch: int = 0
    lost: int = 0


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
        budget_cents: the most that the session may cost, or None.
        context_tokens: what the last request and its reply took of the model's window, by the
            provider's counts; 0 when that is not known yet.
        compactions: summaries made since the model's last own reply, in this turn.
        overflowed: whether the conversation was too long for the model.
        aims: the outcomes that are not over; the first is under way or next.
        run_id: the workflow run that created this thread.
        withheld: how often in a row a refused request was answered by withholding blocks from it.
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
    budget_cents: int | None = None
    crew: "Crew | None" = None
    context_tokens: int = 0
    compactions: int = 0
    overflowed: bool = False
    aims: Aims = ()
    run_id: str | None = None
    withheld: int = 0

    @property
    def own_status(self) -> Status:
        """The status of this thread alone."""
        return STATUS_OF[self.phase]

    @property
    def status(self) -> Status:
        """The status as the API shows it: with a crew, what its threads add up to (10.25)."""
        if self.crew is None or self.phase is Phase.TERMINATED:
            return self.own_status
        found = {thread.own_status for thread in self.threads}
        for status in (Status.RUNNING, Status.RESCHEDULING):
            if status in found:
                return status
        return Status.IDLE

    @property
    def threads(self) -> "tuple[State, ...]":
        """This thread, and the children that may still take input."""
        members = () if self.crew is None else self.crew.members
        return (self, *(member.state for member in members))

    @property
    def open_calls(self) -> tuple[Call, ...]:
        """The calls of all threads that have no result."""
        return tuple(call for thread in self.threads for call in thread.calls)

    @property
    def asks(self) -> tuple[str, ...]:
        """The calls for which threads stand idle."""
        return tuple(use_id for thread in self.threads for use_id in thread.announced)

    @property
    def told(self) -> bool:
        """True if the session's last status event says what its threads add up to."""
        if self.crew is None or self.phase is Phase.TERMINATED:
            return True
        same = self.crew.told is self.status
        return same and (self.status is not Status.IDLE or self.crew.asked == self.asks)

    def member(self, thread_id: str | None) -> "Member | None":
        """Return a child thread that may still take input, or None."""
        members = () if self.crew is None else self.crew.members
        return next((m for m in members if m.state.thread_id == thread_id), None)

    def at(self, thread: "State") -> "State":
        """Return a child's state as the loop looks at it: under the session's one budget (12.3)."""
        return replace(
            thread,
            last_seq=self.last_seq,
            budget_cents=self.budget_cents,
            usage=self.usage,
            active_us=self.active_us,
            running_since_us=self.running_since_us,
        )

    def locate(self, use_id: str) -> "tuple[State, Call] | None":
        """Return the open call of a tool use, and the thread that waits for it."""
        for thread in self.threads:
            if (call := thread.call(use_id)) is not None:
                return thread, call
        return None

    @property
    def blocking(self) -> tuple[str, ...]:
        """The ids of calls that wait for a client or worker, in the model's order."""
        return tuple(call.id for call in self.calls if self._blocks(call))

    @property
    def due(self) -> bool:
        """True if the loop has something to do now; a retry's time is the lease's business."""
        if self.phase is Phase.TERMINATED:
            return False
        return (
            not self.told
            or self.own_due
            or any(self.at(thread).own_due for thread in self.threads[1:])
            or any(runs.move(run, self.stand(run)) for run in self.runs)
        )

    @property
    def own_due(self) -> bool:
        """The same of this thread alone."""
        waiting = {item.type for item in self.queued}
        if waiting & {"user.interrupt", "user.tool_confirmation"}:
            return True
        match self.phase:
            case Phase.IDLE:
                starts = bool(waiting & OPENERS) or self.next_aim
                return starts and not self.capped()
            case Phase.PAUSED:
                return not self.capped()
            case Phase.REQUIRES_ACTION:
                return self.blocking != self.announced
            case Phase.RUNNING:
                return not self.calls or any(not self._performed_elsewhere(c) for c in self.calls)
            case Phase.SAMPLING:
                return True
            case _:
                return False

    @property
    def aim(self) -> Aim | None:
        """The outcome that the agent works for."""
        return self.aims[0] if self.aims and self.aims[0].begun else None

    @property
    def next_aim(self) -> bool:
        """Whether an outcome waits and none is under way."""
        return bool(self.aims) and not self.aims[0].begun

    @property
    def crew_works(self) -> bool:
        """Whether another thread has something to do, so that its report is still to come."""
        others = self.threads[1:]
        return bool(self.runs) or any(
            t.phase is not Phase.IDLE or self.at(t).own_due for t in others
        )

    @property
    def runs(self) -> tuple[Run, ...]:
        """The workflow runs that have not ended, oldest first."""
        return () if self.crew is None else self.crew.runs

    @property
    def slots(self) -> int:
        """How many threads count against the limit.

        A step that has ended does not count, though its thread is there as long as its run; a run
        keeps room for one, so that it can always go on.
        """
        members = () if self.crew is None else self.crew.members
        plain = sum(m.call_id is None and m.state.run_id is None for m in members)
        return plain + sum(max(1, len(self._steps_of(run))) for run in self.runs)

    def stand(self, run: Run) -> Stand:
        """Return how things stand around a run."""
        steps = self._steps_of(run)
        return Stand(
            open=tuple(step.thread_id for step in steps),
            working=any(
                step.own_status is not Status.IDLE or self.at(step).own_due for step in steps
            ),
            lost=tuple(
                step.thread_id for step in steps if step.phase is Phase.IDLE and not step.queued
            ),
            room=not steps or self.slots < runs.MAX_THREADS,
            capped=self.capped(),
        )

    def call(self, use_id: str) -> Call | None:
        """Return the open call of that tool use, or None if it is settled or unknown."""
        return next((call for call in self.calls if call.id == use_id), None)

    def active_us_at(self, now_us: int) -> int:
        """Return the microseconds spent running until now."""
        return running_us(self.active_us, self.running_since_us, now_us)

    def active_s(self, now_us: int) -> float:
        """Return the seconds spent running until now (contract 10.27)."""
        return self.active_us_at(now_us) / SECOND_US

    def capped(self, now_us: int | None = None) -> bool:
        """Tell whether the budget is reached (contract 12.6), now or at the last idle."""
        active_us = self.active_us if now_us is None else self.active_us_at(now_us)
        return capped(self.budget_cents, self.usage, active_us)

    def dump(self) -> dict[str, object]:
        """Return the state as JSON values; :func:`load` gives it back."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "phase": self.phase.value,
            "queued": [[item.id, item.type] for item in self.queued],
            "calls": [dump_call(call) for call in self.calls],
            "request": self.request and list(vars(self.request).values()),
            "announced": list(self.announced),
            "usage": dict(vars(self.usage)),
            **({} if self.crew is None else {"crew": self.crew.dump()}),
            "aims": outcomes.dump(self.aims),
        }

    def _steps_of(self, run: Run) -> "list[State]":
        members = () if self.crew is None else self.crew.members
        return [m.state for m in members if m.state.run_id == run.id and not m.over]

    def _performed_elsewhere(self, call: Call) -> bool:
        """Tell whether the session stays running until somebody else's result arrives."""
        if call.kind is CallKind.WEB:
            return call.until_us is not None
        return call.kind is CallKind.SANDBOX and call.permitted and not self.self_hosted

    def _blocks(self, call: Call) -> bool:
        match call.kind:
            case CallKind.CUSTOM:
                return not call.refused
            case CallKind.SANDBOX:
                return call.held or (self.self_hosted and call.permitted)
            case CallKind.MCP | CallKind.WEB:
                return call.held
            case CallKind.CREW:
                return False


@dataclass(frozen=True)
class Member:
    """A child thread that may still take input.

    Args:
        name: its agent's.
        state: its own; its clock and usage are its own too.
        call_id: the consultation that it answers, of an advisor.
        over: whether the step of a workflow run that it works on has ended.
    """

    name: str
    state: State
    call_id: str | None = None
    over: bool = False


@dataclass(frozen=True)
class Crew:
    """What a session with several threads has beside its primary thread.

    The clock and usage of the primary thread's :class:`State` are then the whole session's; what is
    that thread's own stands here.

    Args:
        members: the children, oldest first; one that has ended leaves.
        told: what the session's last status event said.
        asked: the calls that it asked for.
        runs: the workflow runs that have not ended, oldest first.
        departed_us: time that the children spent running which have left; None if a release that
            did not count it wrote this (``threads.recalled`` knows it).
    """

    members: tuple[Member, ...] = ()
    told: Status = Status.IDLE
    asked: tuple[str, ...] = ()
    usage: UsageTotals = field(default_factory=UsageTotals)
    active_us: int = 0
    running_since_us: int | None = None
    runs: tuple[Run, ...] = ()
    departed_us: int | None = 0

    def dump(self) -> dict[str, object]:
        """Return JSON values."""
        return {
            "members": [[m.name, m.state.dump(), m.call_id, m.over] for m in self.members],
            "runs": [run.dump() for run in self.runs],
            "told": self.told.value,
            "asked": list(self.asked),
            "usage": dict(vars(self.usage)),
            "active_us": self.active_us,
            "running_since_us": self.running_since_us,
            "departed_us": self.departed_us,
        }


def initial(thread_id: str, *, self_hosted: bool, crewed: bool = False) -> State:
    """Return the state of an empty log (contract 10.9).

    Args:
        crewed: whether the session may have more threads than its primary one.
    """
    crew = Crew() if crewed else None
    return State(thread_id=thread_id, self_hosted=self_hosted, crew=crew)


def load(dumped: Mapping[str, object]) -> State:
    """Return the state that :meth:`State.dump` wrote."""
    values = cast("Mapping[str, list[list[str]]]", dumped)
    request = cast("list[object] | None", dumped["request"])
    return State(
        **{name: dumped[name] for name in _PLAIN if name in dumped},  # type: ignore[arg-type]  # dump wrote them
        phase=Phase(cast("str", dumped["phase"])),
        queued=tuple(Queued(*item) for item in values["queued"]),
        calls=tuple(load_call(item) for item in cast("list[dict[str, object]]", dumped["calls"])),
        request=OpenRequest(*request) if request else None,  # type: ignore[arg-type]  # as above
        announced=tuple(cast("list[str]", dumped["announced"])),
        usage=UsageTotals(**cast("dict[str, Any]", dumped["usage"])),
        aims=outcomes.load(cast("list[dict[str, Any]]", dumped.get("aims", []))),
        crew=_load_crew(cast("dict[str, Any]", dumped["crew"])) if "crew" in dumped else None,
    )


def _load_crew(dumped: Mapping[str, Any]) -> Crew:
    return Crew(
        members=tuple(Member(name, load(state), *rest) for name, state, *rest in dumped["members"]),
        runs=tuple(runs.load(run) for run in dumped.get("runs", ())),
        told=Status(dumped["told"]),
        asked=tuple(dumped["asked"]),
        usage=UsageTotals(**dumped["usage"]),
        active_us=dumped["active_us"],
        running_since_us=dumped["running_since_us"],
        departed_us=dumped.get("departed_us"),
    )


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
    "budget_cents",
    "context_tokens",
    "compactions",
    "overflowed",
    "run_id",
    "withheld",
)
