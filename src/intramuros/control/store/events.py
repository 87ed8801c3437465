"""The log of a session: append and read. Rows are never changed.

Positions (``seq``) are gapless from 1 in each session and times strictly increase (contract
AMB 25): the caller holds the session's row and passes where its log ends.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    exists,
    insert,
    or_,
    select,
    true,
)

from intramuros.control.store.db import Tx
from intramuros.control.store.prepared import Prepared, shaped
from intramuros.control.store.records import Draft, Record
from intramuros.control.store.tables import events, sessions

# A page reads rows of at most this many events (contract AMB 34).
PAGE_LIMIT: Final = 1000


@dataclass(frozen=True)
class End:
    """Where a log ends: its last position and time (0 and 0 when empty)."""

    seq: int
    at_us: int


def place(session_id: str, end: End, drafts: Sequence[Draft], stamp: "Stamp") -> list[Record]:
    """Return rows behind ``end`` with their positions, times and ids, for :func:`insert_all`."""
    first_us = max(stamp.now_us, end.at_us + 1)
    return [
        Record(
            session_id=session_id,
            seq=end.seq + 1 + offset,
            id=draft.id or stamp.new_id(),
            type=draft.type,
            at_us=first_us + offset,
            body=draft.body,
            thread_id=draft.thread_id,
            queued=draft.queued,
            private=draft.private,
            shared=draft.shared,
        )
        for offset, draft in enumerate(drafts)
    ]


def insert_all(tx: Tx, records: Sequence[Record]) -> None:
    """Store rows that :func:`place` made, at least one.

    The caller must hold the session's row and store the new end in the same transaction.
    """
    tx.run_many(_INSERT, [_values(record) for record in records])


@dataclass(frozen=True)
class Stamp:
    """What an append takes from the outside: the time, and fresh event ids."""

    now_us: int
    new_id: Callable[[], str]


def read(
    tx: Tx, session_id: str, *, after_seq: int = 0, upto_seq: int | None = None
) -> list[Record]:
    """Return every row behind ``after_seq``, through ``upto_seq`` when given, in order."""
    end = _NO_END if upto_seq is None else upto_seq
    bounds = {"of_session": session_id, "after_seq": after_seq, "upto_seq": end}
    return [_record(row) for row in tx.run(_BEHIND, bounds)]


def last_seq(tx: Tx, session_id: str) -> int | None:
    """Return where a session's log ends, or None when there is no such session."""
    end: int | None = tx.run(_LAST_SEQ, {"session_id": session_id}).scalar()
    return end


def tail(
    tx: Tx, session_id: str, after_seq: int, limit: int, thread_id: str | None = None
) -> list[Record]:
    """Return up to ``limit`` rows behind ``after_seq`` that clients see happen, in order.

    Args:
        thread_id: whose view; None is the primary thread's.
    """
    query = (
        _OF_SESSION.where(
            events.c.session_id == session_id,
            events.c.seq > after_seq,
            _happened(),
            _seen_from(thread_id),
        )
        .order_by(events.c.seq)
        .limit(limit)
    )
    return [_record(row) for row in tx.execute(query)]


def by_id(tx: Tx, session_id: str, event_id: str) -> Record | None:
    """Return an event by id, as processed if it is, or None."""
    query = (
        _OF_SESSION.where(events.c.session_id == session_id, events.c.event_id == event_id)
        .order_by(events.c.queued)
        .limit(1)
    )
    row = tx.execute(query).first()
    return None if row is None else _record(row)


def by_id_among(tx: Tx, session_ids: Collection[str], event_id: str) -> Record | None:
    """Return the event of that id (any text) which has happened in one of these sessions."""
    if "\0" in event_id:  # no text of PostgreSQL's
        return None
    query = _OF_SESSION.where(
        events.c.session_id.in_(list(session_ids)), events.c.event_id == event_id, _happened()
    ).limit(1)
    row = tx.execute(query).first()
    return None if row is None else _record(row)


def answer_to(tx: Tx, session_id: str, use_id: str) -> list[Record]:
    """Return the confirmations and results that name a tool use, in order.

    A scan of the session's answers: for the rare duplicate (contract AMB 21), not for the loop.
    """
    members = ("tool_use_id", "custom_tool_use_id", "mcp_tool_use_id")
    named = or_(*(events.c.body[member].as_string() == use_id for member in members))
    query = _OF_SESSION.where(
        events.c.session_id == session_id, events.c.type.in_(_ANSWERS), named
    ).order_by(events.c.seq)
    return [_record(row) for row in tx.execute(query)]


@dataclass(frozen=True)
class Position:
    """A place in the public list: events that happened come first, waiting inputs last."""

    waiting: bool
    seq: int


@dataclass(frozen=True)
class Query:
    """Which public events, in which order (contract 16.1-16.3).

    The bounds are on the time of processing in microseconds; waiting inputs have none, so any bound
    leaves them out.
    """

    order: Literal["asc", "desc"] = "asc"
    types: Collection[str] = ()
    from_us: int | None = None  # inclusive
    until_us: int | None = None  # exclusive
    limit: int = PAGE_LIMIT
    after: Position | None = None
    thread_id: str | None = None  # whose view; None is the primary thread's


def page(tx: Tx, session_id: str, query: Query) -> tuple[list[Record], Position | None]:
    """Return one page of the public list and where the next one starts, or None at the end.

    Ascending: what happened, by position, then inputs that wait. Descending is the exact reverse.
    """
    sections = (False, True) if query.order == "asc" else (True, False)
    found: list[Record] = []
    for waiting in sections:
        if query.after is not None and sections.index(query.after.waiting) > sections.index(
            waiting
        ):
            continue
        if waiting and (query.from_us is not None or query.until_us is not None):
            continue
        room = query.limit + 1 - len(found)
        if room > 0:
            found += _section(tx, session_id, query, room, waiting=waiting)
    if len(found) <= query.limit:
        return found, None
    last = found[query.limit - 1]
    return found[: query.limit], Position(last.queued, last.seq)


_ANSWERS: Final = (
    "user.tool_confirmation",
    "user.tool_result",
    "user.custom_tool_result",
    "agent.tool_result",
    "agent.mcp_tool_result",
)

_OF_SESSION: Final = select(events)
# Built once: these run several times in every turn.
_INSERT: Final = Prepared(insert(events))
_BEHIND: Final = Prepared(
    _OF_SESSION.where(
        events.c.session_id == bindparam("of_session"), events.c.seq > bindparam("after_seq")
    )
    .where(events.c.seq <= bindparam("upto_seq"))
    .order_by(events.c.seq)
)
_NO_END: Final = 2**63 - 1
_LAST_SEQ: Final = Prepared(
    select(sessions.c.last_seq).where(sessions.c.id == bindparam("session_id"))
)


def _section(tx: Tx, session_id: str, query: Query, room: int, *, waiting: bool) -> list[Record]:
    """Return up to ``room`` rows of what happened, or of what waits."""
    placed = query.after is not None and query.after.waiting == waiting
    values: dict[str, object] = {
        "of_thread": query.thread_id,
        "from_us": query.from_us,
        "until_us": query.until_us,
        "place": query.after.seq if query.after is not None and placed else None,
        **{f"wanted_{number}": kind for number, kind in enumerate(sorted(query.types))},
    }
    given = {name: value for name, value in values.items() if value is not None}
    statement = _page(frozenset(given), len(query.types), waiting, query.order == "asc")
    rows = tx.run(statement, {**given, "of_session": session_id, "count": room})
    return [_record(row) for row in rows]


@shaped
def _page(given: Collection[str], types: int, waiting: bool, ascending: bool) -> Select[Any]:
    """Return a section's statement, with those conditions that have a value."""
    at_us, seq = events.c.at_us, events.c.seq
    place: BindParameter[int] = bindparam("place")
    conditions: dict[str, ColumnElement[bool]] = {
        "from_us": at_us >= bindparam("from_us"),
        "until_us": at_us < bindparam("until_us"),
        "place": seq > place if ascending else seq < place,
    }
    wanted = [
        events.c.session_id == bindparam("of_session"),
        _waits() if waiting else _happened(),
        _seen_from(bindparam("of_thread") if "of_thread" in given else None),
        *(condition for name, condition in conditions.items() if name in given),
    ]
    if types:
        wanted.append(events.c.type.in_([bindparam(f"wanted_{number}") for number in range(types)]))
    return (
        _OF_SESSION.where(*wanted)
        .order_by(seq.asc() if ascending else seq.desc())
        .limit(bindparam("count"))
    )


def _seen_from(thread_id: str | BindParameter[str] | None) -> ColumnElement[bool]:
    if thread_id is None:
        return or_(events.c.thread_id.is_(None), events.c.shared == true())
    return events.c.thread_id == thread_id


def _happened() -> ColumnElement[bool]:
    return and_(events.c.internal != true(), events.c.queued != true())


def _waits() -> ColumnElement[bool]:
    twin = events.alias("twin")
    return and_(
        events.c.internal != true(),
        events.c.queued == true(),
        # What agents tell each other is seen when it is heard: only clients' inputs wait in view.
        events.c.type != "agent.thread_message_received",
        ~exists().where(
            twin.c.session_id == events.c.session_id,
            twin.c.event_id == events.c.event_id,
            twin.c.queued != true(),
        ),
    )


def _values(record: Record) -> dict[str, object]:
    return {
        "session_id": record.session_id,
        "seq": record.seq,
        "event_id": record.id,
        "type": record.type,
        "thread_id": record.thread_id,
        "queued": record.queued,
        "internal": record.internal,
        "at_us": record.at_us,
        "body": dict(record.body),
        "private": None if record.private is None else dict(record.private),
        "shared": record.shared,
    }


def _record(row: Row[Any]) -> Record:
    return Record(
        session_id=row.session_id,
        seq=row.seq,
        id=row.event_id,
        type=row.type,
        at_us=row.at_us,
        body=row.body,
        thread_id=row.thread_id,
        queued=row.queued,
        private=row.private,
        shared=row.shared,
    )
