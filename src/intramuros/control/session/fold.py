"""How a record changes what a session's log adds up to. Pure.

Rules that keep this file honest: a record changes a :class:`State` in :func:`fold` and nowhere
else; no clock, no I/O. Folding a log from the start gives the same state as folding its tail onto a
stored one.

The legal moves are the table of ``phase.py``. A record that it does not allow raises
:class:`IllegalRecord`: that is a mistake of ours, never of a client, whose inputs are judged before
they become records.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from intramuros.control.session import runs
from intramuros.control.session.fold_thread import IllegalRecord, clocked, step
from intramuros.control.session.phase import (
    END,
    OF_THREAD,
    RETRY,
    RUN,
    STOP,
    Phase,
    Status,
)
from intramuros.control.session.state import Crew, Member, State
from intramuros.control.session.usage import UsageTotals
from intramuros.control.store.records import Record

if TYPE_CHECKING:
    from dataclasses import replace
else:
    from intramuros.kernel.fields import replace

_OF_SESSION: Final[Mapping[str, Status]] = {
    RUN: Status.RUNNING,
    END: Status.IDLE,
    RETRY: Status.RESCHEDULING,
    STOP: Status.TERMINATED,
}


def fold(state: State, record: Record) -> State:
    """Return the state after one more record.

    Raises:
        IllegalRecord: the record cannot follow this log.
    """
    if record.seq != state.last_seq + 1:
        raise IllegalRecord(f"record {record.seq} cannot follow {state.last_seq}")
    try:
        return step(state, record) if state.crew is None else _crewed(state, state.crew, record)
    except runs.IllegalStep as error:
        raise IllegalRecord(str(error)) from error


def final(state: State, record: Record) -> Member:
    """Return a child thread as the record that ends it leaves it.

    Args:
        state: the session's before that record, with which the child leaves it.
    """
    return _ended(_member(state, record), record)


def _crewed(state: State, crew: Crew, record: Record) -> State:
    """Return a session with several threads after one more record of any of them."""
    if record.type in _OF_SESSION:
        return _tell(state, crew, record)
    if record.type == "session.thread_created":
        return replace(state, crew=_joined(state, crew, record), last_seq=record.seq)
    if record.type == runs.CREATED or (record.type in runs.OF_RUN and _run_id(record)):
        return replace(step(state, record), crew=_ran(crew, record))
    if record.thread_id is not None:
        return _of_member(state, crew, record)
    own = replace(
        state, usage=crew.usage, active_us=crew.active_us, running_since_us=crew.running_since_us
    )
    own = _moved(own, record)
    members = crew.members
    if record.type == "user.interrupt" and record.queued and not _names_thread(record):
        members = tuple(replace(m, state=step(m.state, record)) for m in members)
        crew = replace(crew, runs=runs.stopped(crew.runs))
    before = crew.usage
    crew = replace(
        crew,
        members=members,
        usage=own.usage,
        active_us=own.active_us,
        running_since_us=own.running_since_us,
    )
    return replace(
        own,
        crew=crew,
        usage=_grown(state.usage, before, own.usage),
        active_us=state.active_us,
        running_since_us=state.running_since_us,
    )


def _of_member(state: State, crew: Crew, record: Record) -> State:
    before = _member(state, record)
    after = _ended(before, record)
    gone = after.state.phase is Phase.TERMINATED
    place = crew.members.index(before)
    members = (*crew.members[:place], *([] if gone else [after]), *crew.members[place + 1 :])
    # A step has no result either if its thread was archived.
    lost = gone if record.type != runs.STEP_ENDED else not record.body["done"]
    known = crew.runs
    if before.state.run_id is not None and not before.over and lost:
        known = runs.lost(known, before.state.run_id)
    departed_us = crew.departed_us
    if gone and departed_us is not None:
        departed_us += after.state.active_us
    return replace(
        state,
        crew=replace(crew, members=members, runs=known, departed_us=departed_us),
        usage=_grown(state.usage, before.state.usage, after.state.usage),
        last_seq=record.seq,
    )


def _ended(member: Member, record: Record) -> Member:
    over = member.over
    if record.type == runs.STEP_ENDED:
        if over or member.state.run_id is None:
            raise IllegalRecord(f"{member.state.thread_id} works on no step")
        over = True
    return replace(member, state=_moved(member.state, record), over=over)


def _member(state: State, record: Record) -> Member:
    member = state.member(record.thread_id)
    if member is None:
        raise IllegalRecord(f"{record.type} of {record.thread_id}, which takes nothing more")
    return member


def _moved(thread: State, record: Record) -> State:
    """Return a thread after a record of its own; its status events move it."""
    if (move := OF_THREAD.get(record.type)) is None:
        return step(thread, record)
    if record.body["session_thread_id"] != thread.thread_id:
        raise IllegalRecord(f"unknown thread {record.body['session_thread_id']}")
    return replace(step(thread, replace(record, type=move)), thread_announced=True)


def _joined(state: State, crew: Crew, record: Record) -> Crew:
    thread_id = cast("str", record.body["session_thread_id"])
    if state.member(thread_id) is not None or thread_id == state.thread_id:
        raise IllegalRecord(f"{thread_id} exists already")
    run_id = _run_id(record)
    member = Member(
        cast("str", record.body["agent_name"]),
        State(thread_id=thread_id, self_hosted=state.self_hosted, run_id=run_id),
        cast("str | None", (record.private or {}).get("call")),
    )
    known = runs.begun(crew.runs, run_id)
    return replace(crew, members=(*crew.members, member), runs=known)


def _ran(crew: Crew, record: Record) -> Crew:
    """Return the crew after a record of one of its workflow runs."""
    if record.type == runs.CREATED:
        return replace(crew, runs=runs.created(crew.runs, record))
    run_id = _run_id(record)
    threads = sum(member.state.run_id == run_id for member in crew.members)
    return replace(crew, runs=runs.followed(crew.runs, record, threads))


def _run_id(record: Record) -> str | None:
    return cast("str | None", record.body.get("workflow_run_id"))


def _tell(state: State, crew: Crew, record: Record) -> State:
    """Take note of what the session's status event says; it moves the session's clock alone."""
    told = _OF_SESSION[record.type]
    left = crew.members or crew.runs
    if told is Status.TERMINATED and (state.phase is not Phase.TERMINATED or left):
        raise IllegalRecord("a session ends after its threads and workflow runs")
    if told in (Status.IDLE, Status.RESCHEDULING) and told is not state.status:
        raise IllegalRecord(f"{record.type} while threads are {state.status}")
    asked: tuple[str, ...] = ()
    if told is Status.IDLE:
        reason = cast("Mapping[str, object]", record.body["stop_reason"])
        asked = tuple(cast("list[str]", reason.get("event_ids", [])))
        if asked != state.asks:
            raise IllegalRecord("a session's idle asks for what its threads ask for")
    if told is Status.RUNNING:
        since = state.running_since_us
        timed = replace(state, running_since_us=record.at_us if since is None else since)
    else:
        timed = clocked(state, record)
    return replace(timed, crew=replace(crew, told=told, asked=asked), last_seq=record.seq)


def _names_thread(record: Record) -> bool:
    return record.body.get("session_thread_id") is not None


def _grown(total: UsageTotals, before: UsageTotals, after: UsageTotals) -> UsageTotals:
    """Return the total, of which one part was ``before`` and is ``after``."""
    grown: dict[str, Any] = {}
    for name, value in vars(total).items():
        new = getattr(after, name)
        grown[name] = (
            value or new if isinstance(value, bool) else (value + new - getattr(before, name))
        )
    return UsageTotals(**grown)
