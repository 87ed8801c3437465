"""The only writer of events.

Every door does the same inside the caller's transaction: hold the session's row, append, fold,
project the result onto the row, offer what has become due, tell webhooks, record what crosses the
wall, and hint once it is durable. :meth:`Journal.accept` is for callers, :meth:`Journal.record` for
whoever holds the turn's lease, :meth:`Journal.append` for acts of the API itself.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError

from intramuros.control.catalog import behind
from intramuros.control.identity import audit, ssh_certificates
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.model.catalogue import Catalogue, shipped_catalogue
from intramuros.control.session import file_sources, legality, notices, outcomes, threads
from intramuros.control.session.fold import fold
from intramuros.control.session.legality import Past
from intramuros.control.session.phase import Status
from intramuros.control.session.repositories import ready_us
from intramuros.control.session.state import State, load
from intramuros.control.session.work import WorkQueue
from intramuros.control.store import events, leases
from intramuros.control.store.codec import encode
from intramuros.control.store.db import Tx
from intramuros.control.store.events import End, Stamp
from intramuros.control.store.notify import (
    DREAM_TOPIC,
    TURN_TOPIC,
    WEBHOOK_TOPIC,
    Hub,
    News,
    session_topic,
)
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.records import Draft, Record
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import IntramurosError, InvalidRequest, NotFound, TooLarge
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.envelope import MAX_BODY_BYTES
from intramuros.protocol.events import ANSWERS, SERVER_TOOLS, Inbound, SystemMessage
from intramuros.protocol.resources.dreams import ENVIRONMENT_KIND

# One row holds at most what one request may carry.
MAX_RECORD_BYTES: Final = MAX_BODY_BYTES
# Rows of one transaction; a turn's records and a request's events stay far below.
MAX_DRAFTS: Final = 2_000

# Input after which a session needs somebody to serve its sandbox (AMB 13, 15).
_WAKES_WORKER: Final = frozenset({"user.message", "user.interrupt", "user.tool_confirmation"})


# Built once: both run in every transaction.
_HOLD: Final = Prepared(
    select(sessions).where(sessions.c.id == bindparam("session_id")).with_for_update()
)
_PROJECT: Final = Prepared(
    update(sessions)
    .where(sessions.c.id == bindparam("session_id"))
    .values(
        state=bindparam("new_state"),
        status=bindparam("new_status"),
        last_seq=bindparam("end_seq"),
        updated_us=bindparam("end_us"),
    )
)

_STEER: Final = Prepared(
    update(sessions)
    .where(sessions.c.id == bindparam("of_id"))
    .values(steered_by=bindparam("marks"))
)


@dataclass(frozen=True)
class Held:
    """A session's row, held until the transaction ends, its state and where its log ends."""

    row: Row[Any]
    state: State
    end: End


@dataclass(frozen=True)
class _Placed:
    """Rows that have their places in the log, and the session before and behind them."""

    before: Held
    after: Held
    rows: list[Record]


class Begun(Protocol):
    """A turn that somebody claimed in the transaction that made it due."""

    @property
    def drafts(self) -> Sequence[Draft]:
        """The first rows that it writes."""
        ...

    def settle(self, tx: Tx, written: Sequence[Record]) -> None:
        """Do what follows from those rows: in this transaction, and once it is durable."""
        ...


class Starter(Protocol):
    """Whoever can act for a session at once."""

    def begin(self, tx: Tx, held: Held, written: Sequence[Record]) -> Begun | None:
        """Claim a session's turn and say what is written first; None to have it offered.

        Args:
            held: the session before ``written``, which made its turn due.
        """
        ...


class NotBegun(IntramurosError):
    """What was to be written at once cannot be; the same input can be taken without."""


# Sees a session's row and what was written to its log, in the same transaction.
Watch = Callable[[Tx, Row[Any], Sequence[Record]], None]


class Journal:
    """Writes events and keeps every view of them in step."""

    def __init__(
        self,
        clock: Clock,
        ids: IdFactory,
        hub: Hub,
        work: WorkQueue,
        watch: Watch | None = None,
        known: Catalogue | None = None,
    ) -> None:
        """Take what an append concerns.

        Args:
            known: what models take; the shipped list when None.
        """
        self._known = known
        self._watch = watch
        self._clock = clock
        self._ids = ids
        self._hub = hub
        self._work = work

    def hold(self, tx: Tx, session_id: str) -> Held:
        """Hold a session's row against other writers and return it.

        Raises:
            NotFound: there is no such session.
        """
        return _held(tx, session_id, tx.run(_HOLD, {"session_id": session_id}).first())

    def held(self, tx: Tx, session_id: str, epoch: int) -> Held:
        """Hold a session's row for whoever has the turn's lease, if that is still the newest.

        Raises:
            LostLease: it is not.
            NotFound: the session was deleted.
        """
        claim = leases.ask(tx, leases.TURNS, session_id)
        row = tx.later(_HOLD, {"session_id": session_id})
        leases.require(claim, f"{leases.TURNS}/{session_id}", epoch)
        return _held(tx, session_id, row.rows().first())

    def accept(
        self,
        tx: Tx,
        principal: Principal,
        session_id: str,
        inbound: Sequence[Inbound],
        starter: Starter | None = None,
    ) -> list[Record]:
        """Take a client's events, all of them or none, and return them as stored.

        An event that repeats an answer already in the log gives the stored one (AMB 21).

        Args:
            starter: may begin the turn that they make due in the same transaction.

        Raises:
            NotFound: no such session or file for this caller, or an unknown thread.
            InvalidRequest: an event is not legal now.
            RateLimited: too many inputs wait.
            NotBegun: try again without the starter; nothing is written.
        """
        held = self.hold(tx, session_id)
        if held.row.workspace_id != principal.workspace_id:
            raise NotFound(f"no session {session_id!r}")
        principal.require_session(session_id, held.row.environment_id)
        refuse_dreaming(held.row)
        if any(isinstance(event, SystemMessage) for event in inbound):
            known = self._known or shipped_catalogue()
            known.check_system_messages(str(held.row.agent["model"]["id"]))
        past = {
            use_id: Past(
                events.by_id(tx, session_id, use_id), events.answer_to(tx, session_id, use_id)
            )
            for use_id in legality.wanted_past(held.state, inbound)
        }
        hosted = principal.kind is CredentialKind.SESSIONS_TOKEN and not held.state.self_hosted
        now_us = to_micros(self._clock.now())
        file_sources.check(tx, principal, session_id, inbound, now_us)
        verdicts = legality.check(held.state, past, inbound, now_us, hosted=hosted)
        drafts = [
            outcomes.named(verdict, self._ids.new)
            for verdict in verdicts
            if isinstance(verdict, Draft)
        ]
        outcomes.check_room(held.row.outcomes, drafts)
        steered = behind.steered(held.row.steered_by, principal)
        if steered:
            tx.later(_STEER, {"of_id": session_id, "marks": steered["steered_by"]})
        placed = self._place(tx, held, drafts)
        if placed.rows:
            fields: dict[str, object] = {
                "credential": principal.credential_id,
                "events": [_digest(record) for record in placed.rows],
            }
            self._take(tx, placed, fields, starter)

        def unwritten(draft: Draft) -> Record:
            id = self._ids.new("sevt")
            return Record(session_id, 0, id, draft.type, now_us, draft.body, queued=True)

        return legality.resolve(verdicts, iter(placed.rows), unwritten)

    def record(
        self,
        tx: Tx,
        held: Held,
        drafts: Sequence[Draft],
        release: Callable[[], None] | None = None,
    ) -> list[Record]:
        """Append what the loop did.

        Args:
            held: from :meth:`held`, in this transaction; to be used once.
            release: gives the lease back, before anything that all writers share is touched.
        """
        placed = self._append(tx, held, drafts)
        if release is not None:
            release()
        self._audit_calls(tx, held, placed.rows)
        return placed.rows

    def append(self, tx: Tx, held: Held, drafts: Sequence[Draft]) -> list[Record]:
        """Append rows to a held session, bring every view up to date, and offer a turn if due.

        ``held`` must come from this transaction and be used once.

        Raises:
            TooLarge: a row over :data:`MAX_RECORD_BYTES`, or too many rows.
            IllegalRecord: a row that cannot follow the log.
        """
        placed = self._append(tx, held, drafts)
        if placed.rows and placed.after.state.due:
            self._offer(tx, held, placed.rows)
        return placed.rows

    def wake(self, tx: Tx, session_id: str) -> None:
        """Offer a turn that had to wait for a checkout, if one is due.

        Raises:
            NotFound: there is no such session.
        """
        held = self.hold(tx, session_id)
        if held.state.due:
            self._offer(tx, held, ())

    def _take(
        self, tx: Tx, placed: "_Placed", fields: dict[str, object], starter: Starter | None
    ) -> None:
        """Store inputs; have the turn that they make due begun, or offered.

        Args:
            fields: what the audit keeps of them.
        """
        held, due = placed.before, placed.after.state.due
        begun = self._begin(tx, placed, starter) if due else None
        if begun is None:
            if due:
                self._offer(tx, held, placed.rows)
            self._write(tx, placed)
            self._audit(tx, "session.input", held, fields)
            return
        with _told():
            first = self._place(tx, placed.after, begun.drafts)
            rows = [*placed.rows, *first.rows]
            self._write(tx, _Placed(held, first.after, rows))
            # Behind all that is not shared: who records is alone until the commit.
            self._audit(tx, "session.input", held, fields)
            self._audit_calls(tx, held, first.rows)
            begun.settle(tx, first.rows)

    def _begin(self, tx: Tx, placed: "_Placed", starter: Starter | None) -> Begun | None:
        if starter is None:
            return None
        now_us = to_micros(self._clock.now())
        if self._ready_us(placed.before, placed.rows, now_us) > now_us:
            return None
        with _told():
            return starter.begin(tx, placed.before, placed.rows)

    def _ready_us(self, held: Held, written: Sequence[Record], now_us: int) -> int:
        hurry = any(record.type == "user.interrupt" for record in written)
        return now_us if hurry else ready_us(held.row.resources, now_us)

    def _offer(self, tx: Tx, held: Held, written: Sequence[Record]) -> None:
        now_us = to_micros(self._clock.now())
        at_us = self._ready_us(held, written, now_us)
        leases.offer(tx, leases.TURNS, held.row.id, now_us, at_us=at_us)
        tx.after_commit(lambda: self._hub.hint(TURN_TOPIC))

    def _append(self, tx: Tx, held: Held, drafts: Sequence[Draft]) -> "_Placed":
        placed = self._place(tx, held, drafts)
        if placed.rows:
            self._write(tx, placed)
        return placed

    def _place(self, tx: Tx, held: Held, drafts: Sequence[Draft]) -> "_Placed":
        """Return the rows that drafts become, and what the session is behind them."""
        if not drafts:
            return _Placed(held, held, [])
        _check_sizes(drafts)
        state = held.state
        stamp = Stamp(to_micros(self._clock.now()), lambda: self._ids.new("sevt"))
        rows = events.place(held.row.id, held.end, drafts, stamp)
        for record in rows:
            threads.project(tx, state, record)
            state = fold(state, record)
        return _Placed(held, Held(held.row, state, End(rows[-1].seq, rows[-1].at_us)), rows)

    def _write(self, tx: Tx, placed: "_Placed") -> None:
        """Store rows, at least one, and bring every view up to date."""
        held, state, end = placed.before, placed.after.state, placed.after.end
        row, written = held.row, placed.rows
        events.insert_all(tx, written)
        threads.settle(tx, held.state, state, end.at_us)
        projection = {
            "session_id": row.id,
            "new_state": state.dump(),
            "new_status": shown_status(state).value,
            "end_seq": end.seq,
            "end_us": end.at_us,
        }
        tx.later(_PROJECT, projection)
        self._tell_outcomes(tx, row, written)
        self._staff(tx, row, state, written)
        if notices.pass_on(tx, self._clock, row, written):
            tx.after_commit(lambda: self._hub.hint(WEBHOOK_TOPIC))
        if row.environment_kind == ENVIRONMENT_KIND and state.status is not Status.RUNNING:
            leases.offer(tx, leases.DREAMS, row.id, to_micros(self._clock.now()))
            tx.after_commit(lambda: self._hub.hint(DREAM_TOPIC))
        if self._watch is not None:
            self._watch(tx, row, written)
        tx.after_commit(lambda: self._tell(row.id, held.end.seq, written))

    def _tell_outcomes(self, tx: Tx, row: Row[Any], written: Sequence[Record]) -> None:
        shown = row.outcomes
        for record in written:
            if record.type in outcomes.TELLING:
                shown = outcomes.show(shown, record)
        if shown != row.outcomes:
            tx.execute(update(sessions).where(sessions.c.id == row.id).values(outcomes=shown))

    def _tell(self, session_id: str, after_seq: int, written: Sequence[Record]) -> None:
        topic = session_topic(session_id)
        if self._hub.listeners(topic):
            # Copies, because the loop keeps its records for long and these keep their text.
            shown = [replace(record) for record in written if record.visible]
            self._hub.tell(topic, News(after_seq, written[-1].seq, shown))
        else:
            self._hub.hint(topic)  # somebody may listen in another process

    def _staff(self, tx: Tx, row: Row[Any], state: State, written: Sequence[Record]) -> None:
        """See to it that a worker serves the session as long as it needs one."""
        if state.status is Status.TERMINATED:
            self._work.release(tx, row.environment_id, row.id, force=False)
            ssh_certificates.reconsider(tx, self._clock, ssh_certificates.in_session(row.id))
        elif any(map(_needs_worker if state.self_hosted else _needs_host, written)):
            self._work.ensure(tx, row.environment_id, row.id)

    def _audit_calls(self, tx: Tx, held: Held, written: Sequence[Record]) -> None:
        calls = [_digest(record) for record in written if record.type in ANSWERS]
        if calls:
            self._audit(tx, "session.calls", held, {"calls": calls})

    def _audit(self, tx: Tx, kind: str, held: Held, fields: dict[str, object]) -> None:
        audit.record(
            tx,
            self._clock,
            kind,
            workspace_id=held.row.workspace_id,
            session_id=held.row.id,
            fields=fields,
        )


def _held(tx: Tx, session_id: str, row: Row[Any] | None) -> Held:
    if row is None:
        raise NotFound(f"no session {session_id!r}")
    state = threads.recalled(tx, session_id, load(row.state))
    return Held(row, state, End(row.last_seq, row.updated_us))


@contextmanager
def _told() -> Iterator[None]:
    """Tell whatever cannot be begun as such, but for what the same transaction may meet again."""
    try:
        yield
    except (OperationalError, InternalError, InterfaceError):
        raise
    except Exception as error:
        raise NotBegun(repr(error)) from error


def refuse_dreaming(row: Row[Any]) -> None:
    """Refuse to let a client act on a session that runs a dream: the dream is its client.

    Raises:
        InvalidRequest: it does, and the dream has not stopped.
    """
    if row.environment_kind == ENVIRONMENT_KIND and row.archived_us is None:
        raise InvalidRequest(
            f"session {row.id!r} runs the dream {row.metadata.get('dream_id')!r} and takes no "
            "orders of its own; cancel the dream to stop it"
        )


def shown_status(state: State) -> Status:
    """Return the status as clients see it.

    An idle session with input that starts work is running from the moment the input is stored,
    though no process has begun: otherwise a client could archive what it has just asked for.
    """
    return Status.RUNNING if state.status is Status.IDLE and state.due else state.status


def _needs_host(record: Record) -> bool:
    """Tell the same of a cloud environment, where sessions without sandbox calls get no worker."""
    return _calls_sandbox(record) or (record.type == "user.tool_confirmation" and not record.queued)


def _needs_worker(record: Record) -> bool:
    if record.queued:
        return record.type in _WAKES_WORKER
    return record.type == "session.status_running" or _calls_sandbox(record)


def _calls_sandbox(record: Record) -> bool:
    """Tell whether a row is a call of a built-in tool, but for those that this server performs."""
    return record.type == "agent.tool_use" and record.body.get("name") not in SERVER_TOOLS


def _check_sizes(drafts: Sequence[Draft]) -> None:
    if len(drafts) > MAX_DRAFTS:
        raise TooLarge(f"{len(drafts)} events at once; at most {MAX_DRAFTS} are allowed")
    for draft in drafts:
        size = len(encode(draft.body))
        if size > MAX_RECORD_BYTES:
            raise TooLarge(f"{draft.type} has {size} bytes; at most {MAX_RECORD_BYTES} are allowed")


def _digest(record: Record) -> dict[str, object]:
    """Return what the audit keeps of an event: never its content."""
    content = _canonical(record.body)
    digest = {
        "id": record.id,
        "type": record.type,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    named = ("name", "tool_use_id", "custom_tool_use_id", "evaluated_permission", "result")
    return {**digest, **{name: record.body[name] for name in named if name in record.body}}


def _canonical(body: object) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
