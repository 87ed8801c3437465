"""Claims due turns and drives them, up to so many at once. Any process may run one.

Idle and waiting sessions cost nothing here: their lease is given back, and the next input offers
it again. Short-term memory of sessions that were just driven saves reading their logs anew; it is
bounded and never the truth.
"""

import contextvars
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup

from intramuros.control.session.concert import Concert
from intramuros.control.session.drive import Drive, DriveSettings, context_of
from intramuros.control.session.hold import Desk, Hold, load_view
from intramuros.control.session.journal import Held
from intramuros.control.session.opening import Opening, opened
from intramuros.control.session.perform import Performer
from intramuros.control.session.turn import Effect, Wait
from intramuros.control.session.view import View
from intramuros.control.store import leases
from intramuros.control.store.db import Tx
from intramuros.control.store.leases import Lease, LostLease
from intramuros.control.store.notify import TURN_TOPIC
from intramuros.control.store.records import Record
from intramuros.kernel.errors import Unavailable
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("turn")

MICROS: Final = 1_000_000
# Rows of all remembered logs together: some tens of megabytes at most.
MEMORY_ROWS: Final = 20_000
# A turn that failed for a reason of ours comes back after this long, so that it cannot spin.
FAILED_PAUSE_S: Final = 30.0
# Giving a session back at the end of a process must not hold that end up.
_FAREWELL_S: Final = 2.0


@dataclass(frozen=True)
class RunnerSettings:
    """How turns are claimed.

    Args:
        concurrency: sessions driven at once by this process.
        poll_s: how often to look for due turns when no hint comes, in seconds.
        drive: how a claimed session is held.
    """

    concurrency: int = 64
    poll_s: float = 1.0
    drive: DriveSettings = field(default_factory=DriveSettings)


class Runner:
    """The loop of a server process.

    Args:
        holder: this process's name in the lease table, for people; the runner adds to it.
    """

    def __init__(
        self,
        desk: Desk,
        performer: Performer,
        ids: IdFactory,
        holder: str,
        settings: RunnerSettings | None = None,
    ) -> None:
        self._desk = desk
        self._performer = performer
        self._ids = ids
        # Two processes may have one name; what a runner leaves behind is found by its own.
        self._holder = f"{holder}/{ids.random(4).hex()}"
        self._settings = settings or RunnerSettings()
        self._memory = Memory(MEMORY_ROWS)
        self._slots = anyio.Semaphore(self._settings.concurrency)
        self._open: _Open | None = None

    async def run(self, stop: Stop) -> None:
        """Claim and drive turns until a stop is asked for; then let the held ones go."""
        try:
            async with anyio.create_task_group() as turns:
                self._open = _Open(turns, stop, contextvars.copy_context())
                try:
                    await self._serve(turns, stop)
                    await self._settled()
                finally:
                    self._open = None
        finally:
            with anyio.move_on_after(_FAREWELL_S, shield=True):
                await self._let_go()

    async def _serve(self, turns: TaskGroup, stop: Stop) -> None:
        with self._performer.hub.subscribe(TURN_TOPIC, whispers=False, news=False) as hints:
            async with anyio.create_task_group() as waiting:

                async def cut() -> None:
                    await stop.wait()
                    waiting.cancel_scope.cancel()

                waiting.start_soon(cut)
                while not stop.requested:
                    await self._slots.acquire()
                    hints.clear()
                    claim = await self._claim()
                    if claim.lease is None:
                        self._slots.release()
                    else:
                        turns.start_soon(self._turn, _Turn(claim.lease, claim.view), stop)
                    if claim.wait_s > 0:
                        await hints.wait(claim.wait_s)

    async def _settled(self) -> None:
        """Wait for what was begun before the stop: it is known behind its commit only."""
        try:
            await self._desk.db.write(lambda _: None)
        except Unavailable as error:
            log.info("turns_unsettled", error=repr(error))

    async def _let_go(self) -> None:
        """Give back what was begun in a commit that nobody here has heard of yet.

        The transaction is alone, so whatever began a turn before it is over. Others need not wait
        until such a turn's lease lapses.
        """
        now_us = self._desk.now_us()

        def work(tx: Tx) -> list[str]:
            return leases.release(tx, leases.TURNS, self._holder, now_us)

        try:
            left = await self._desk.db.write(work)
        except Unavailable as error:
            log.info("turns_not_given_back", error=repr(error))
        else:
            if left:
                log.info("turns_given_back", sessions=left)

    def begin(self, tx: Tx, held: Held, written: Sequence[Record]) -> Opening | None:
        """Claim a session that an input has just made due, if this process can act at once.

        It can for a session that it remembers, with one thread, while it has a slot. Called on any
        thread, perhaps again for the same input; nothing happens before the commit.

        Args:
            held: the session before ``written``.
        """
        known = self._memory.look(held.row.id)
        if self._open is None or self._open.stop.requested or self._slots.value < 1:
            return None
        if known is None or known.state.crew is not None or known.state.last_seq != held.end.seq:
            return None
        drive = self._settings.drive
        ttl_us = round(drive.lease_s * MICROS)
        now_us = self._desk.now_us()
        lease = leases.take(tx, leases.TURNS, held.row.id, self._holder, now_us, ttl_us)
        if lease is None:
            return None
        view = known.renewed(held.row.agent, held.row.resources).extend(written)
        context = context_of(self._desk, self._ids, lease.epoch, drive.limits)
        return opened(self._desk, lease, view, context, self._go)

    def _go(self, opening: Opening) -> None:
        """Drive what was begun, now that it is durable."""
        self._memory.forget(opening.lease.key)
        if isinstance(opening.effect, Wait):
            self._memory.keep(opening.view)
            return
        if self._open is None:
            # It was given back, or is about to be, by whoever ended the runner.
            log.info("turn_left", session=opening.lease.key)
            return
        try:
            self._slots.acquire_nowait()
            counted = True
        except anyio.WouldBlock:
            counted = False  # others took the last ones with the same commit: it goes beside them
        turn = _Turn(opening.lease, opening.view, opening.effect, counted)
        # Not as a part of the request that brought the input.
        start = self._open.context.copy().run
        start(self._open.turns.start_soon, self._turn, turn, self._open.stop)

    async def _claim(self) -> "_Claim":
        """Claim the turn that is due longest, if one is, and look when the next one is."""
        now_us = self._desk.now_us()
        ttl_us = round(self._settings.drive.lease_s * MICROS)

        def work(tx: Tx) -> tuple[Lease | None, View | None, int | None]:
            lease = leases.claim(tx, leases.TURNS, self._holder, now_us, ttl_us)
            view = self._catch_up(tx, lease.key) if lease else None
            return lease, view, leases.next_ready_us(tx, leases.TURNS)

        try:
            # No key: what others are claiming is passed over.
            lease, view, ready_us = await self._desk.db.jot(work, ())
        except Unavailable as error:
            log.error("claim_failed", error=repr(error))
            return _Claim(None, None, self._settings.poll_s)
        wait_s = self._settings.poll_s
        if ready_us is not None:
            wait_s = min(wait_s, max(0.0, (ready_us - now_us) / MICROS))
        return _Claim(lease, view, wait_s)

    def _catch_up(self, tx: Tx, session_id: str) -> View | None:
        """Return a remembered session as it is now.

        It needs few rows, so that reading them here is cheaper than in another hop; a strange
        session may be long and must not keep the writer.
        """
        if (known := self._memory.look(session_id)) is None:
            return None
        try:
            return load_view(tx, session_id, known, self._desk.served)
        except LostLease:
            return None

    async def _turn(self, turn: "_Turn", stop: Stop) -> None:
        lease = turn.lease
        try:
            await self._drive(turn, stop)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_FAREWELL_S, shield=True):
                await self._give_back(lease, self._desk.now_us())
            raise
        except Exception as error:
            log.error("turn_failed", session=lease.key, error=repr(error), exc_info=error)
            at_us = self._desk.now_us() + round(FAILED_PAUSE_S * MICROS)
            await self._give_back(lease, at_us)
        finally:
            if turn.counted:
                self._slots.release()

    async def _drive(self, turn: "_Turn", stop: Stop) -> None:
        lease, view = turn.lease, turn.view
        self._memory.forget(lease.key)
        if view is None:
            try:
                view = await self._desk.db.read(
                    lambda tx: load_view(tx, lease.key, None, self._desk.served)
                )
            except LostLease:
                log.info("turn_session_gone", session=lease.key)
                return
        hold = Hold(self._desk, lease, view)
        given = hold, self._desk, self._performer, self._ids, self._settings.drive
        if view.state.crew is None:
            left = await Drive(*given).run(stop, turn.first)
        else:
            left = await Concert(*given).run(stop)
        if left is not None:
            self._memory.keep(left)

    async def _give_back(self, lease: Lease, at_us: int) -> None:
        now_us = self._desk.now_us()
        try:
            await self._desk.db.write(
                lambda tx: leases.postpone(tx, lease, now_us, at_us), (lease.key,)
            )
        except (LostLease, Unavailable) as error:
            log.info("turn_not_given_back", session=lease.key, error=repr(error))


class Memory:
    """The views of sessions driven lately, the longest unused forgotten first."""

    def __init__(self, rows: int) -> None:
        self._limit = rows
        self._rows = 0
        self._views: OrderedDict[str, View] = OrderedDict()

    def look(self, session_id: str) -> View | None:
        """Return what is known of a session; from any thread."""
        return self._views.get(session_id)

    def forget(self, session_id: str) -> None:
        """Forget a session, which somebody is about to change."""
        view = self._views.pop(session_id, None)
        if view is not None:
            self._rows -= len(view.records)

    def keep(self, view: View) -> None:
        """Remember a session, forgetting others to stay within the bound."""
        self.forget(view.subject.session_id)
        self._views[view.subject.session_id] = view
        self._rows += len(view.records)
        while self._rows > self._limit:
            _, forgotten = self._views.popitem(last=False)
            self._rows -= len(forgotten.records)


@dataclass(frozen=True)
class _Open:
    """What turns are driven in while the runner runs."""

    turns: TaskGroup
    stop: Stop
    context: contextvars.Context


@dataclass(frozen=True)
class _Turn:
    """A claimed turn.

    Args:
        view: the session as it is; None where this process does not know it.
        first: the effect behind what is written already.
        counted: whether it has a slot.
    """

    lease: Lease
    view: View | None
    first: Effect | None = None
    counted: bool = True


@dataclass(frozen=True)
class _Claim:
    """What a look at the queue brought: perhaps a turn, perhaps its view, and when to look again.

    ``wait_s`` is 0 when another turn is due already.
    """

    lease: Lease | None
    view: View | None
    wait_s: float
