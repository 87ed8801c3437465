"""Drives one held session from effect to effect until it waits.

::

    plan ──► append the rows ──► perform the effect ──► its outcome ──┐
      ▲        (one transaction)                                      │
      └───────────────────────────────────────────────────────────────┘

The rows of an outcome and those of the plan behind it share a transaction, and so do the last rows
of a turn and the end of the lease. An interrupt that arrives during an effect cancels it.
"""

import random
from dataclasses import dataclass, field

import anyio

from intramuros.control.session.evaluation import AskGrader
from intramuros.control.session.hold import Desk, Hold
from intramuros.control.session.judging import AskJudge
from intramuros.control.session.perform import Outcome, Performer
from intramuros.control.session.turn import (
    CallModel,
    Context,
    Effect,
    Limits,
    ListTools,
    MakeCalls,
    Wait,
    plan,
)
from intramuros.control.session.view import View, identified
from intramuros.control.store.leases import LostLease
from intramuros.control.store.notify import session_topic
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("turn")


@dataclass(frozen=True)
class DriveSettings:
    """How a session is held.

    Args:
        lease_s: how long a claim lasts without a sign of life, in seconds.
        beat_s: how often a sign of life is given; a third of the lease survives two lost ones.
        watch_s: how often an effect looks for an interrupt when no hint comes.
        pulse_s: how often an evaluation shows that it goes on.
        limits: bounds of a turn.
    """

    lease_s: float = 12.0
    beat_s: float = 4.0
    watch_s: float = 2.0
    pulse_s: float = 15.0
    limits: Limits = field(default_factory=Limits)


class Drive:
    """One session while this process holds it."""

    def __init__(
        self,
        hold: Hold,
        desk: Desk,
        performer: Performer,
        ids: IdFactory,
        settings: DriveSettings,
    ) -> None:
        self._hold = hold
        self._desk = desk
        self._performer = performer
        self._ids = ids
        self._settings = settings

    async def run(self, stop: Stop, first: Effect | None = None) -> View | None:
        """Work until the session waits, and give it back.

        Args:
            first: what comes after the rows that opened the turn, if they are written already.

        Returns:
            What is known of the session, or None if the lease was lost.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self._beat_loop, group.cancel_scope)
            kept = await self._guarded(stop, first)
            group.cancel_scope.cancel()
            return kept
        return None

    async def _guarded(self, stop: Stop, first: Effect | None) -> View | None:
        kept: View | None = self._hold.view
        try:
            await self._loop(stop, first)
            kept = self._hold.view
        except* LostLease:
            log.info("turn_lease_lost", session=self._hold.lease.key)
            kept = None
        return kept

    async def _loop(self, stop: Stop, first: Effect | None) -> None:
        pending = None if first is None else await self._perform(first)
        while True:
            context = self._context()
            brought = pending(self._hold.view, context) if pending else []
            known = identified(brought, context.new_id)
            if stop.requested:
                if await self._hold.append(known, release=Wait(self._desk.now_us())):
                    return
                continue
            view = self._hold.view.expect(known, context.now_us, context.new_id)
            drafts, effect = plan(view, context)
            release = effect if isinstance(effect, Wait) else None
            if not await self._hold.append([*known, *drafts], release):
                continue
            if isinstance(effect, Wait):
                return
            pending = await self._perform(effect)

    async def _perform(self, effect: Effect) -> Outcome | None:
        """Perform an effect; None if an interrupt cut it short."""
        brought: list[Outcome] = []
        topic = session_topic(self._hold.lease.key)
        with self._performer.hub.subscribe(topic, whispers=False, news=False) as hints:
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    while not self._interrupted():
                        await hints.wait(self._settings.watch_s)
                        hints.clear()
                        await self._hold.refresh()
                    group.cancel_scope.cancel()

                group.start_soon(watch)
                brought.append(await self._effect(effect))
                group.cancel_scope.cancel()
        return brought[0] if brought else None

    async def _effect(self, effect: Effect) -> Outcome:
        view, context = self._hold.view, self._context()
        match effect:
            case CallModel():
                return await self._performer.call_model(view, effect, context)
            case AskGrader():
                pulse_s = self._settings.pulse_s
                return await self._performer.ask_grader(view, effect, self._record_early, pulse_s)
            case AskJudge():
                limit_s = self._settings.limits.bench.timeout_s
                return await self._performer.ask_judge(view, effect, self._record_early, limit_s)
            case ListTools():
                return await self._performer.list_tools(view, effect)
            case MakeCalls():
                return await self._performer.make_calls(view, effect, self._record_early)
            case Wait():
                raise TypeError("waiting is not performed")

    async def _record_early(self, outcome: Outcome) -> None:
        while not await self._hold.append(outcome(self._hold.view, self._context())):
            pass

    def _interrupted(self) -> bool:
        return any(item.type == "user.interrupt" for item in self._hold.view.state.queued)

    async def _beat_loop(self, scope: anyio.CancelScope) -> None:
        ttl_us = round(self._settings.lease_s * 1_000_000)
        while True:
            await anyio.sleep(self._settings.beat_s)
            try:
                await self._hold.beat(ttl_us)
            except LostLease:
                log.info("turn_lease_lost", session=self._hold.lease.key)
                scope.cancel()

    def _context(self) -> Context:
        return context_of(self._desk, self._ids, self._hold.lease.epoch, self._settings.limits)


def context_of(desk: Desk, ids: IdFactory, epoch: int, limits: Limits) -> Context:
    """Return what a decision takes from the outside, now.

    Args:
        epoch: of the lease that the asker holds.
    """
    return Context(
        now_us=desk.now_us(),
        epoch=epoch,
        new_id=lambda: ids.new("sevt"),
        rand=random.random,
        limits=limits,
    )
