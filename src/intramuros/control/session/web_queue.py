"""Web calls that workers make: handed over, claimed once, answered once.

A call that the loop hands over stands in the log with the time until which its answer is waited
for; the session then costs nothing. The queue says only who has it. A call that was claimed is
given to nobody else, whatever becomes of the worker: a search is paid for, and a page may count its
readers. A claim lasts as long as its worker says that it lives; ``web_lapses.py`` answers the calls
of those that do not. A call that nobody takes, or not in time, the loop answers.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast

from sqlalchemy import select

from intramuros.control.identity import audit
from intramuros.control.identity.principal import Principal
from intramuros.control.session import ledger, outcome
from intramuros.control.session.calls import Call
from intramuros.control.session.journal import Held, Journal
from intramuros.control.session.state import State, load
from intramuros.control.session.view import View
from intramuros.control.store import events, leases
from intramuros.control.store import work as rows
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.leases import Lease, LostLease
from intramuros.control.store.notify import Hub
from intramuros.control.store.records import Draft, Record
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import Conflict, NotFound
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.web_calls import LEASE_S, WebAnswer, WebCall, WebClaim
from intramuros.web.base import FETCH, SEARCH, Answer, Code, Fetch, Search, refusal
from intramuros.web.terms import Terms

log = logger("web")

MICROS: Final = 1_000_000
LEASE_US: Final = round(LEASE_S * MICROS)
# What a call may wait for a worker, and its answer for the way back, beside the call itself.
TAKE_S: Final = 10.0
# A worker that polled so lately is there; polls are noted at most this often.
SEEN_S: Final = 45.0
NOTE_EVERY_S: Final = 10.0
# A held poll looks at the table by itself this often, should a hint be lost.
SAFETY_S: Final = 5.0
# Claims of one poll that turn out to be about calls nobody waits for any more.
_MAX_STALE: Final = 100
_MAX_NOTED: Final = 10_000
_POOL: Final = "web/pool"

NO_WORKER: Final = (
    "this server has web calls made by workers inside the perimeter, and none that makes them "
    "serves this session's environment now. Go on without the web, and tell the user."
)

# Counts what a session used; the workspace and the agent's model, and the rows.
Count = Callable[[Tx, tuple[str, str], Sequence[Record]], None]


@dataclass(frozen=True)
class WebPoll:
    """A worker's request for calls.

    Args:
        worker_id: who asks, for people.
        tools: the tools whose calls it makes.
        wait_s: how long an empty poll is held open, in seconds.
        gone: tells whether the worker has hung up.
    """

    worker_id: str
    tools: frozenset[str]
    wait_s: float
    gone: Callable[[], Awaitable[bool]]


class WebQueue:
    """The calls that wait for workers."""

    def __init__(
        self, db: Database, hub: Hub, clock: Clock, journal: Journal, count: Count
    ) -> None:
        self._db = db
        self._hub = hub
        self._clock = clock
        self._journal = journal
        self._count = count
        self._noted: dict[tuple[str, str], float] = {}

    async def served(self, session_id: str, name: str) -> bool:
        """Tell whether a worker makes such calls for a session."""
        since_us = self._now_us() - round(SEEN_S * MICROS)

        def read(tx: Tx) -> bool:
            queue = _queue_of(tx, session_id, name)
            return queue is not None and rows.count_pollers(tx, queue, since_us) > 0

        return await self._db.read(read)

    def offer(self, tx: Tx, _view: View, written: Sequence[Record]) -> None:
        """Offer the calls that the loop has just handed over; a watch of what it writes."""
        for record in written:
            if record.type != outcome.HANDED:
                continue
            name = str((record.private or {})["name"])
            queue = _queue_of(tx, record.session_id, name)
            assert queue is not None
            key = f"{record.session_id}/{record.body['tool_use_id']}/{record.seq}"
            leases.offer(tx, queue, key, self._now_us())
            tx.after_commit(partial(self._hub.hint, queue.rpartition("/")[0]))

    async def poll(self, caller: Principal, poll: WebPoll) -> WebCall | None:
        """Hand out the next call, or None; waits for at most ``poll.wait_s`` seconds."""
        queues = [f"{_base(caller)}/{name}" for name in sorted(poll.tools)]
        await self._note(queues, poll.worker_id)
        end_s = self._clock.monotonic() + poll.wait_s
        with self._hub.subscribe(_base(caller), whispers=False, news=False) as hints:
            while True:
                hints.clear()
                found = await self._claim_one(caller, queues, poll.worker_id)
                left_s = end_s - self._clock.monotonic()
                if found is not None or hints.closed or left_s <= 0:
                    return found
                await hints.wait(min(left_s, SAFETY_S))
                if await poll.gone():
                    return None

    async def beat(self, caller: Principal, call_id: str, claim: WebClaim) -> bool:
        """Take a worker's sign of life; tell whether its answer would still be taken."""
        return await self._db.write(lambda tx: self._beat(tx, caller, call_id, claim))

    async def answer(self, caller: Principal, call_id: str, said: WebAnswer) -> None:
        """Take the answer to a claimed call.

        Raises:
            Conflict: it is answered already, or nobody waits for it any more.
        """
        await self._db.write(lambda tx: self._answer(tx, caller, call_id, said))

    async def _claim_one(
        self, caller: Principal, queues: Sequence[str], holder: str
    ) -> WebCall | None:
        now_us = self._now_us()

        def waits(tx: Tx) -> list[str]:
            times = {queue: leases.next_ready_us(tx, queue) for queue in queues}
            return [q for q, at_us in times.items() if at_us is not None and at_us <= now_us]

        ready = await self._db.read(waits)
        if not ready:
            return None
        return await self._db.write(lambda tx: self._claim(tx, caller, ready, holder))

    def _claim(
        self, tx: Tx, caller: Principal, queues: Sequence[str], holder: str
    ) -> WebCall | None:
        now_us = self._now_us()
        for queue in queues:
            for _ in range(_MAX_STALE):
                # Never claimable again: the row says who has it, and whether that worker lives.
                lease = leases.claim(tx, queue, holder, now_us, LEASE_US)
                if lease is None:
                    break
                found = self._find(tx, queue, lease.key, lease.epoch, now_us)
                if found is None:
                    leases.drop(tx, queue, lease.key)
                    continue
                call, workspace_id = found
                fields: dict[str, object] = {"call": call.id, "tool": call.name, "holder": holder}
                self._audit(tx, "web.hand_over", caller, (workspace_id, call.session_id), fields)
                return call
        return None

    def _find(
        self, tx: Tx, queue: str, key: str, epoch: int, now_us: int
    ) -> tuple[WebCall, str] | None:
        """Return a call of the queue as a worker is told of it, if its answer is waited for."""
        session_id, call_id, seq = key.split("/")
        row = tx.execute(select(sessions).where(sessions.c.id == session_id)).first()
        if row is None or not _waits(load(row.state), call_id, now_us):
            return None
        [handed] = events.read(tx, session_id, after_seq=int(seq) - 1, upto_seq=int(seq))
        ask = cast("dict[str, Any]", handed.private)
        call = WebCall(
            id=call_id,
            ticket=f"{queue}:{key}",
            epoch=epoch,
            session_id=session_id,
            name=ask["name"],
            asked=ask["asked"],
            allowed=tuple(tuple(entries) for entries in ask["allowed"]),
            blocked=tuple(ask["blocked"]),
            max_tokens=ask["max_tokens"],
            location=ask["location"],
            timeout_s=ask["timeout_s"],
        )
        return call, row.workspace_id

    def _beat(self, tx: Tx, caller: Principal, call_id: str, claim: WebClaim) -> bool:
        place = _place(caller, call_id, claim.ticket)
        if place is None:
            return False
        queue, key = place
        now_us = self._now_us()
        state = tx.scalar(select(sessions.c.state).where(sessions.c.id == key.split("/")[0]))
        if state is None or not _waits(load(state), call_id, now_us):
            return False
        until_us = now_us + LEASE_US
        try:
            leases.beat(tx, Lease(queue, key, claim.epoch, until_us), until_us)
        except LostLease:
            return False
        return True

    def _answer(self, tx: Tx, caller: Principal, call_id: str, said: WebAnswer) -> None:
        late = Conflict(f"nobody waits for an answer to {call_id!r} from here")
        place = _place(caller, call_id, said.ticket)
        if place is None:
            raise late
        queue, key = place
        try:
            leases.check(tx, queue, key, said.epoch)
            held = self._journal.hold(tx, key.split("/")[0])
        except (LostLease, NotFound) as error:
            raise late from error
        found = held.state.locate(call_id)
        if found is None or found[1].until_us is None:
            raise late
        thread, call = found
        leases.drop(tx, queue, key)
        self._record(tx, caller, held, (thread, call), said)

    def _record(
        self, tx: Tx, caller: Principal, held: Held, of: tuple[State, Call], said: WebAnswer
    ) -> None:
        thread, call = of
        content = [block.model_dump(mode="json", exclude_none=True) for block in said.content]
        seen = said.seen.model_dump(mode="json", exclude_none=True)
        use = events.by_id(tx, held.row.id, call.id)
        searched = use is not None and use.body["name"] == SEARCH and not said.is_error
        answer = Answer(content, said.is_error, int(searched), seen)
        draft = routed(held, thread, outcome.web_answered(call, answer))
        written = self._journal.append(tx, held, [draft])
        self._count(tx, (held.row.workspace_id, str(held.row.agent["model"]["id"])), written)
        whose = (held.row.workspace_id, held.row.id)
        for record in written:
            self._audit(tx, "web.result", caller, whose, ledger.web_result(record))

    async def _note(self, queues: Sequence[str], worker_id: str) -> None:
        """Remember that a worker is there."""
        now_s, now_us = self._clock.monotonic(), self._now_us()
        fresh = [
            (queue, worker_id)
            for queue in queues
            if now_s - self._noted.get((queue, worker_id), float("-inf")) >= NOTE_EVERY_S
        ]
        if not fresh:
            return
        if len(self._noted) >= _MAX_NOTED:
            self._noted.clear()
        self._noted.update(dict.fromkeys(fresh, now_s))

        def note(tx: Tx) -> None:
            for key in fresh:
                rows.note_poller(tx, *key, now_us)

        await self._db.write(note)

    def _audit(
        self,
        tx: Tx,
        kind: str,
        caller: Principal,
        whose: tuple[str, str],
        fields: dict[str, object],
    ) -> None:
        audit.record(
            tx,
            self._clock,
            kind,
            workspace_id=whose[0],
            session_id=whose[1],
            fields={"by": caller.credential_id, **fields},
        )

    def _now_us(self) -> int:
        return to_micros(self._clock.now())


class Handover:
    """Hands calls to workers, within what the operator allows.

    Args:
        terms: his; workers have terms of their own on top.
    """

    def __init__(self, queue: WebQueue, terms: Terms) -> None:
        self._queue = queue
        self._terms = terms

    async def hand(self, wanted: Fetch | Search) -> Answer | outcome.Handed:
        """Return what is handed over, or the answer where nobody would take it."""
        name = FETCH if isinstance(wanted, Fetch) else SEARCH
        rules = self._terms.rules.within([wanted.rules])
        if rules.barren:
            why = "no domain is permitted: the lists have none in common"
            return refusal(Code.NOT_ALLOWED, why)
        if not await self._queue.served(wanted.caller.session_id, name):
            return refusal(Code.UNAVAILABLE, NO_WORKER)
        ask = {
            "name": name,
            "asked": wanted.url if isinstance(wanted, Fetch) else wanted.query,
            "allowed": [list(entries) for entries in rules.allowed],
            "blocked": list(rules.blocked),
            "max_tokens": wanted.max_tokens if isinstance(wanted, Fetch) else None,
            "location": {} if isinstance(wanted, Fetch) else dict(wanted.location),
            "timeout_s": self._terms.timeout_s,
        }
        return outcome.Handed(ask, round((self._terms.timeout_s + TAKE_S) * MICROS))


def routed(held: Held, thread: State, draft: Draft) -> Draft:
    """Return the answer to a call as a row of the thread that made it."""
    if thread.thread_id == held.state.thread_id:
        return draft
    # Not shared: what this server has done for a child stays in the child's view.
    return replace(draft, thread_id=thread.thread_id)


def _base(caller: Principal) -> str:
    return f"web/{caller.environment_id}" if caller.environment_id else _POOL


def _queue_of(tx: Tx, session_id: str, name: str) -> str | None:
    row = tx.execute(
        select(sessions.c.environment_id, sessions.c.environment_kind).where(
            sessions.c.id == session_id
        )
    ).first()
    if row is None:
        return None
    return f"{_POOL if row.environment_kind == 'cloud' else f'web/{row.environment_id}'}/{name}"


def _place(caller: Principal, call_id: str, ticket: str) -> tuple[str, str] | None:
    """Return the queue and key of a ticket, if it is about this call and one of this caller's."""
    queue, mark, key = ticket.partition(":")
    parts = key.split("/")
    ours = queue.rpartition("/")[0] == _base(caller)
    return (queue, key) if mark and ours and len(parts) == 3 and parts[1] == call_id else None


def _waits(state: State, call_id: str, now_us: int) -> bool:
    found = state.locate(call_id)
    return found is not None and found[1].until_us is not None and now_us < found[1].until_us
