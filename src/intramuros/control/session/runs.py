"""Workflow runs as a session's state knows them, and what a run does next. Pure.

::

    created ─► running ⇄ idle       phase_started ─► step threads ─► phase_ended ─► … ─► ended
    (its plan stays in the log)     one for each phase, in the plan's order

A run is a part of its session's state, and every step of it follows from that state alone, so any
process can go on with it at any record. What its plan says stands in the private part of
``workflow_run.created``; here is only how many steps each phase has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final

from intramuros.control.session.phase import Status
from intramuros.control.store.records import Record

# Threads at once beside the primary one, advisors not counted (contract 19.6).
MAX_THREADS: Final = 25
# Runs of a session that have not ended; the contract names the error but no number.
MAX_RUNS: Final = 4
# Threads that one run may create, which is one for each step of its plan; likewise.
MAX_STEPS: Final = 25

CREATED: Final = "workflow_run.created"
RUNNING: Final = "workflow_run.status_running"
IDLE: Final = "workflow_run.status_idle"
PHASE_STARTED: Final = "workflow_run.phase_started"
PHASE_ENDED: Final = "workflow_run.phase_ended"
ERROR: Final = "workflow_run.error"
ENDED: Final = "workflow_run.status_ended"
# A step has a result, or never will have one.
STEP_ENDED: Final = "internal.workflow_step_ended"
# What a run came to, for the agent that started it: a message that waits, or one that is just told.
REPORT: Final = "internal.workflow_report"
NOTE: Final = "internal.workflow_note"


@dataclass(frozen=True)
class Run:
    """A workflow run that has not ended.

    Args:
        id: its public id.
        created_id: the event that has its plan.
        phases: the id of each phase of the plan, and the number of its steps.
        told: what its last status event said; None before the first.
        place: the phase that is open or was open last, counted from 0; -1 before the first.
        started_id: the event that opened the open phase; None if none is open.
        begun: steps of that phase that have a thread.
        failed: whether a step ended without a result.
        stopping: whether a client interrupted the session, and the run with it.
        erred: the error that it ends with, once told.
        active_us: time spent running up to ``running_since_us``.
    """

    id: str
    created_id: str
    phases: tuple[tuple[str, int], ...]
    told: Status | None = None
    place: int = -1
    started_id: str | None = None
    begun: int = 0
    failed: bool = False
    stopping: bool = False
    erred: str | None = None
    active_us: int = 0
    running_since_us: int | None = None

    @property
    def steps(self) -> int:
        """The steps of the phase that is open or was open last."""
        return self.phases[self.place][1] if self.place >= 0 else 0

    def deadline_us(self, limit_us: int) -> int | None:
        """Return when the run will have run for so long; None while it is idle."""
        if self.running_since_us is None:
            return None
        return self.running_since_us + limit_us - self.active_us

    def dump(self) -> dict[str, object]:
        """Return the run as JSON values; :func:`load` gives it back."""
        return {**vars(self), "phases": [list(phase) for phase in self.phases]}


def load(dumped: Mapping[str, Any]) -> Run:
    """Return the run that :meth:`Run.dump` wrote."""
    told = dumped["told"]
    return Run(
        **{
            **dumped,
            "phases": tuple((phase_id, steps) for phase_id, steps in dumped["phases"]),
            "told": None if told is None else Status(told),
        }
    )


@dataclass(frozen=True)
class Stand:
    """How things stand around a run.

    Args:
        open: the threads of its steps that have not ended.
        working: whether one of them has something to do.
        lost: those that rest without a result, because they were interrupted before they began.
        room: whether it may start another thread.
        capped: whether the session's budget is reached, so that nothing new begins.
    """

    open: tuple[str, ...]
    working: bool
    lost: tuple[str, ...]
    room: bool
    capped: bool


class Move(Enum):
    """What a run does next by itself."""

    STOP = auto()  # end, as a client wanted
    LOSE = auto()  # note that a step will have no result
    RUN = auto()  # say that it runs
    OPEN = auto()  # enter the next phase
    BEGIN = auto()  # start the next step of the phase
    CLOSE = auto()  # leave the phase
    COMPLETE = auto()  # end
    FAIL = auto()  # end with an error
    REST = auto()  # say that it is idle


def move(run: Run, stand: Stand) -> Move | None:
    """Return what the run does next; None while it waits for its threads or for room."""
    if run.stopping:
        return Move.STOP
    if stand.lost:
        return Move.LOSE
    step = _step(run, stand)
    if step in (Move.OPEN, Move.BEGIN) or (step is None and stand.working):
        return step if run.told is Status.RUNNING else Move.RUN
    if step is None and run.told is not Status.IDLE:
        return Move.REST
    return step


def _step(run: Run, stand: Stand) -> Move | None:
    if run.started_id is None:
        if run.failed:
            return Move.FAIL
        if run.place + 1 == len(run.phases):
            return Move.COMPLETE
        return None if stand.capped else Move.OPEN
    # A phase in which a step failed begins no more; what is at work there is waited for.
    left = run.begun < run.steps and not run.failed
    if left:
        return Move.BEGIN if stand.room and not stand.capped else None
    return None if stand.open else Move.CLOSE


class IllegalStep(LookupError):
    """A record that cannot follow in a run."""


Runs = tuple[Run, ...]


def created(known: Runs, record: Record) -> Runs:
    """Return the open runs after one more was created.

    Raises:
        IllegalStep: there are too many, or it is there already.
    """
    shown: Any = record.body["phases"]
    sizes: Any = (record.private or {})["steps"]
    phases = tuple((phase["id"], size) for phase, size in zip(shown, sizes, strict=True))
    run = Run(str(record.body["workflow_run_id"]), record.id, phases)
    if len(known) >= MAX_RUNS or any(other.id == run.id for other in known):
        raise IllegalStep(f"{run.id} cannot be created")
    return (*known, run)


def followed(known: Runs, record: Record, threads: int) -> Runs:
    """Return the open runs after one more record of one of them (contract 15.28).

    Args:
        threads: how many threads of that run there still are.

    Raises:
        IllegalStep: the record cannot follow.
    """
    run = _find(known, record.body["workflow_run_id"])
    if run.told is None and record.type not in (RUNNING, IDLE):
        raise IllegalStep(f"{record.type} before a status of {run.id}")
    if record.type == ENDED:
        _check_end(run, record, threads)
        return tuple(other for other in known if other is not run)
    return _swapped(known, run, _FOLLOWED[record.type](run, record))


def begun(known: Runs, run_id: object) -> Runs:
    """Return the open runs after one of them started a thread; not a run's thread if None.

    Raises:
        IllegalStep: the run has no step to begin.
    """
    if run_id is None:
        return known
    run = _find(known, run_id)
    if run.started_id is None or run.begun >= run.steps:
        raise IllegalStep(f"{run.id} has no step to begin")
    return _swapped(known, run, replace(run, begun=run.begun + 1))


def lost(known: Runs, run_id: object) -> Runs:
    """Return the open runs after a step of one of them ended without a result."""
    run = _find(known, run_id)
    return _swapped(known, run, replace(run, failed=True))


def stopped(known: Runs) -> Runs:
    """Return the open runs once a client interrupted the session."""
    return tuple(replace(run, stopping=True) for run in known)


def _find(known: Runs, run_id: object) -> Run:
    run = next((run for run in known if run.id == run_id), None)
    if run is None:
        raise IllegalStep(f"the workflow run {run_id} has ended, or never began")
    return run


def _swapped(known: Runs, run: Run, after: Run) -> Runs:
    return tuple(after if other is run else other for other in known)


def _check_end(run: Run, record: Record, threads: int) -> None:
    result: Any = record.body["result"]
    erred = result["error"]["type"] if result["type"] == "error" else None
    if run.started_id is not None or threads:
        raise IllegalStep(f"{run.id} ends before its phases and threads")
    if erred != run.erred:
        raise IllegalStep(f"{run.id} ends with {erred}, but {run.erred} was told")


def _runs(run: Run, record: Record) -> Run:
    if run.told is Status.RUNNING:
        raise IllegalStep(f"{run.id} runs already")
    return replace(run, told=Status.RUNNING, running_since_us=record.at_us)


def _rests(run: Run, record: Record) -> Run:
    if run.told is Status.IDLE:
        raise IllegalStep(f"{run.id} is idle already")
    since_us = record.at_us if run.running_since_us is None else run.running_since_us
    active_us = run.active_us + max(0, record.at_us - since_us)
    return replace(run, told=Status.IDLE, active_us=active_us, running_since_us=None)


def _opens(run: Run, record: Record) -> Run:
    place = run.place + 1
    if run.started_id is not None or place >= len(run.phases):
        raise IllegalStep(f"{run.id} cannot enter a phase")
    if record.body["workflow_run_phase_id"] != run.phases[place][0]:
        raise IllegalStep(f"{run.id} enters its phases in the plan's order")
    return replace(run, place=place, started_id=record.id, begun=0)


def _closes(run: Run, record: Record) -> Run:
    if run.started_id is None or record.body["phase_started_id"] != run.started_id:
        raise IllegalStep(f"{run.id} leaves a phase that is not open")
    return replace(run, started_id=None)


def _errs(run: Run, record: Record) -> Run:
    error: Any = record.body["error"]
    return replace(run, erred=str(error["type"]))


_FOLLOWED: Final[Mapping[str, Callable[[Run, Record], Run]]] = {
    RUNNING: _runs,
    IDLE: _rests,
    PHASE_STARTED: _opens,
    PHASE_ENDED: _closes,
    ERROR: _errs,
}
# What a run of its own id leaves in the log.
OF_RUN: Final = frozenset(_FOLLOWED) | {ENDED}
