"""The child threads of sessions as rows, kept in step with the log; and what callers do with them.

Each function runs inside the caller's transaction. The rows say nothing that the log does not: they
are there to be listed, long after a thread has left the session's state.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Row, insert, select, update

from intramuros.control.session.drafts import thread_ended
from intramuros.control.session.fold import final
from intramuros.control.session.phase import Status
from intramuros.control.session.state import State
from intramuros.control.store.db import Tx
from intramuros.control.store.keyset import beyond
from intramuros.control.store.records import Draft, Record
from intramuros.control.store.session_tables import threads
from intramuros.kernel.errors import Conflict, NotFound

ThreadRow = Row[Any]


def project(tx: Tx, state: State, record: Record) -> None:
    """Note that a thread begins, or ends with this record, in whose wake it leaves the state.

    Args:
        state: the session's before the record.
    """
    private = record.private or {}
    if record.type == "session.thread_created":
        tx.execute(
            insert(threads).values(
                id=record.body["session_thread_id"],
                session_id=record.session_id,
                agent=private["agent"],
                status=Status.IDLE.value,
                state={},
                created_us=record.at_us,
                updated_us=record.at_us,
            )
        )
    elif record.type == "session.thread_status_terminated" and record.thread_id is not None:
        _keep(tx, final(state, record).state, record.at_us)


def settle(tx: Tx, before: State, after: State, now_us: int) -> None:
    """Store the children that changed."""
    if after.crew is None:
        return
    members = () if before.crew is None else before.crew.members
    known = {member.state.thread_id: member.state for member in members}
    for member in after.crew.members:
        if known.get(member.state.thread_id) != member.state:
            _keep(tx, member.state, now_us)


def recalled(tx: Tx, session_id: str, state: State) -> State:
    """Return a session's state with the time of the children that have left.

    Releases that did not count it may have written the state.
    """
    if state.crew is None or state.crew.departed_us is not None:
        return state
    ended = select(threads.c.state).where(
        threads.c.session_id == session_id, threads.c.status == Status.TERMINATED.value
    )
    departed_us = sum(kept.get("active_us", 0) for kept in tx.execute(ended).scalars())
    return replace(state, crew=replace(state.crew, departed_us=departed_us))


def find(
    tx: Tx,
    session_id: str,
    *,
    statuses: Collection[str] = (),
    limit: int,
    after: tuple[int, str] | None = None,
) -> tuple[list[ThreadRow], bool]:
    """Return a page of a session's children, oldest first, and whether there are more."""
    wanted: list[ColumnElement[bool]] = [threads.c.session_id == session_id]
    if statuses:
        wanted.append(threads.c.status.in_(sorted(statuses)))
    if after is not None:
        keys = (threads.c.created_us, threads.c.id)
        wanted.append(beyond(keys, after, ascending=True))
    rows = tx.execute(
        select(threads).where(*wanted).order_by(threads.c.created_us, threads.c.id).limit(limit + 1)
    ).all()
    return list(rows[:limit]), len(rows) > limit


def get(tx: Tx, session_id: str, thread_id: str) -> ThreadRow:
    """Return a child thread.

    Raises:
        NotFound: this session has no such child.
    """
    row = tx.execute(
        select(threads).where(threads.c.session_id == session_id, threads.c.id == thread_id)
    ).first()
    if row is None:
        raise NotFound(f"no thread {thread_id!r} in this session")
    return row


def archive(tx: Tx, state: State, row: ThreadRow, now_us: int) -> list[Draft]:
    """Archive a child thread and return the rows that end it; none if it has ended by itself.

    Args:
        state: the session's.

    Raises:
        Conflict: it is running (contract 19.7).
    """
    if row.archived_us is not None:
        return []
    member = state.member(row.id)
    if member is not None:
        thread = state.at(member.state)
        if thread.own_status is not Status.IDLE or (thread.own_due and not thread.announced):
            raise Conflict(
                f"thread {row.id!r} is running and cannot be archived; send user.interrupt with "
                "its session_thread_id and wait until it is idle"
            )
    tx.execute(
        update(threads)
        .where(threads.c.id == row.id)
        .values(archived_us=max(now_us, row.updated_us))
    )
    return [] if member is None else [thread_ended(row.id, member.name)]


def _keep(tx: Tx, state: State, now_us: int) -> None:
    tx.execute(
        update(threads)
        .where(threads.c.id == state.thread_id)
        .values(state=state.dump(), status=state.own_status.value, updated_us=now_us)
    )
