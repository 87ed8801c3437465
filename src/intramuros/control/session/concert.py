"""Drives one held session whose threads work at the same time.

::

    arrivals ──► their rows, and those of the plan behind them ──► append (one transaction)
       ▲                                                              │
       └── one task for each thread's effect ◄── begin, or cut short ─┘

One loop looks at the log and writes to it; the effects of the threads run beside it and hand what
they bring to it. So every row was decided on exactly the log it follows, as with one thread, while
any number of model requests are under way.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from intramuros.control.session import ensemble
from intramuros.control.session.drive import DriveSettings
from intramuros.control.session.evaluation import AskGrader
from intramuros.control.session.hold import Desk, Hold
from intramuros.control.session.judging import AskJudge
from intramuros.control.session.perform import Outcome, Performer
from intramuros.control.session.turn import CallModel, Context, Effect, ListTools, MakeCalls, Wait
from intramuros.control.session.view import View, identified
from intramuros.control.store.leases import LostLease
from intramuros.control.store.notify import Subscription, session_topic
from intramuros.control.store.records import Draft
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("turn")


@dataclass(eq=False)
class _Flight:
    """An effect under way for one thread."""

    thread_id: str
    effect: Effect
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


@dataclass(eq=False)
class _Arrival:
    """What an effect brought; ``last`` if it is over with it."""

    flight: _Flight
    outcome: Outcome
    last: bool
    stored: anyio.Event = field(default_factory=anyio.Event)


class Concert:
    """One session with several threads while this process holds it."""

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
        self._flights: dict[str, _Flight] = {}
        self._arrived: list[_Arrival] = []
        self._news = anyio.Event()
        self._hinted = False

    async def run(self, stop: Stop) -> View | None:
        """Work until no thread has anything to do, and give the session back.

        Returns:
            What is known of the session, or None if the lease was lost.
        """
        kept: View | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._beat_loop)
                group.start_soon(self._watch_stop, stop)
                await self._loop(stop, group)
                kept = self._hold.view
                group.cancel_scope.cancel()
        except* LostLease:
            log.info("turn_lease_lost", session=self._hold.lease.key)
            kept = None
        return kept

    async def _loop(self, stop: Stop, group: TaskGroup) -> None:
        topic = session_topic(self._hold.lease.key)
        with self._performer.hub.subscribe(topic, whispers=False, news=False) as hints:
            group.start_soon(self._watch_hints, hints)
            while True:
                self._news = anyio.Event()
                if self._hinted:
                    self._hinted = False
                    await self._hold.refresh()
                effects = await self._step(stop, group)
                if effects is None:
                    return
                await self._rest(stop, effects)

    async def _step(self, stop: Stop, group: TaskGroup) -> Mapping[str, Effect] | None:
        """Write what there is to write and begin what follows.

        Returns:
            What the threads that were decided on do next; None once the session was given back.
        """
        while True:
            arrived, context = list(self._arrived), self._context()
            known = self._brought(arrived, context)
            landed = {arrival.flight.thread_id for arrival in arrived if arrival.last}
            busy = self._flights.keys() - landed
            drafts: list[Draft] = []
            effects: Mapping[str, Effect] = {}
            release = Wait(self._desk.now_us())
            if not stop.requested:
                view = self._hold.view.expect(known, context.now_us, context.new_id)
                drafts, effects = ensemble.plan(view, context, busy)
                release = Wait(_soonest(effects))
                busy -= effects.keys()
            waits = all(isinstance(effect, Wait) for effect in effects.values())
            over = waits and not busy
            if not await self._hold.append([*known, *drafts], release if over else None):
                continue
            self._store(arrived)
            if over:
                return None
            self._begin(effects, group)
            return effects

    def _brought(self, arrived: Sequence[_Arrival], context: Context) -> list[Draft]:
        """Return the rows of what the effects brought."""
        view, known = self._hold.view, list[Draft]()
        for arrival in arrived:
            thread_id = arrival.flight.thread_id
            brought = arrival.outcome(_seen(view, thread_id), context)
            drafts = identified(ensemble.dress(view, thread_id, brought), context.new_id)
            known += drafts
            view = view.expect(drafts, context.now_us, context.new_id)
        return known

    def _store(self, arrived: Sequence[_Arrival]) -> None:
        for arrival in arrived:
            self._arrived.remove(arrival)
            arrival.stored.set()
            if arrival.last:
                del self._flights[arrival.flight.thread_id]

    def _begin(self, effects: Mapping[str, Effect], group: TaskGroup) -> None:
        """Cut short what is not to be any more, and begin what is not under way."""
        threads = {thread.thread_id for thread in self._hold.view.state.threads}
        for thread_id, flight in list(self._flights.items()):
            if thread_id in effects or thread_id not in threads:
                flight.scope.cancel()
                del self._flights[thread_id]
                self._arrived = [a for a in self._arrived if a.flight is not flight]
        for thread_id, effect in effects.items():
            if not isinstance(effect, Wait):
                flight = _Flight(thread_id, effect)
                self._flights[thread_id] = flight
                group.start_soon(self._fly, flight)

    async def _fly(self, flight: _Flight) -> None:
        """Perform an effect and hand in what it brings, unless it is cut short."""
        with flight.scope:
            outcome = await self._effect(flight)
            self._land(_Arrival(flight, outcome, last=True))

    async def _effect(self, flight: _Flight) -> Outcome:
        view, context = _seen(self._hold.view, flight.thread_id), self._context()

        async def early(outcome: Outcome) -> None:
            arrival = _Arrival(flight, outcome, last=False)
            self._land(arrival)
            await arrival.stored.wait()

        match flight.effect:
            case CallModel() as effect:
                return await self._performer.call_model(view, effect, context)
            case AskGrader() as effect:
                pulse_s = self._settings.pulse_s
                return await self._performer.ask_grader(view, effect, early, pulse_s)
            case AskJudge() as effect:
                limit_s = self._settings.limits.bench.timeout_s
                return await self._performer.ask_judge(view, effect, early, limit_s)
            case ListTools() as effect:
                return await self._performer.list_tools(view, effect)
            case MakeCalls() as effect:
                return await self._performer.make_calls(view, effect, early)
            case Wait():
                raise TypeError("waiting is not performed")

    def _land(self, arrival: _Arrival) -> None:
        # What was cut short in this very moment has nobody waiting for it.
        if self._flights.get(arrival.flight.thread_id) is arrival.flight:
            self._arrived.append(arrival)
            self._news.set()

    async def _rest(self, stop: Stop, effects: Mapping[str, Effect]) -> None:
        """Wait for something to do: an arrival, a row of somebody else's, or a time."""
        until_us = _soonest(effects)
        seq = self._hold.view.state.last_seq
        while True:
            left_s = math.inf
            if until_us is not None:
                left_s = max(0.0, (until_us - self._desk.now_us()) / 1_000_000)
            with anyio.move_on_after(left_s) as late:
                await self._news.wait()
            if late.cancelled_caught or self._arrived or stop.requested or not self._hinted:
                return
            self._news, self._hinted = anyio.Event(), False
            await self._hold.refresh()
            if self._hold.view.state.last_seq != seq or self._arrived:
                return

    async def _watch_hints(self, hints: Subscription) -> None:
        while True:
            await hints.wait(self._settings.watch_s)
            hints.clear()
            self._hinted = True
            self._news.set()

    async def _watch_stop(self, stop: Stop) -> None:
        await stop.wait()
        self._news.set()

    async def _beat_loop(self) -> None:
        ttl_us = round(self._settings.lease_s * 1_000_000)
        while True:
            await anyio.sleep(self._settings.beat_s)
            await self._hold.beat(ttl_us)

    def _context(self) -> Context:
        return Context(
            now_us=self._desk.now_us(),
            epoch=self._hold.lease.epoch,
            new_id=lambda: self._ids.new("sevt"),
            rand=random.random,
            limits=self._settings.limits,
        )


def _seen(view: View, thread_id: str) -> View:
    return view if thread_id == view.state.thread_id else view.of(thread_id)


def _soonest(effects: Mapping[str, Effect]) -> int | None:
    """Return when the first of the waiting threads goes on by itself, or None."""
    times = [e.until_us for e in effects.values() if isinstance(e, Wait) and e.until_us is not None]
    return min(times, default=None)
