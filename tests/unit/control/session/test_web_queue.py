"""Web calls that workers make, in histories in which anybody may die at any time.

The real loop, journal and queue over a real database; Hypothesis says who does what next: the
loop, which may crash between deciding and writing, two workers, which may die with a call, answer
late or answer twice, the client, and time.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from intramuros.control.model.base import ModelReply, Usage
from intramuros.control.session import outcome
from intramuros.control.session.calls import Call
from intramuros.control.session.hold import load_view
from intramuros.control.session.state import State
from intramuros.control.session.turn import (
    WEB_LOST,
    WEB_UNANSWERED,
    CallModel,
    Context,
    Effect,
    MakeCalls,
    Wait,
    plan,
)
from intramuros.control.session.view import View
from intramuros.control.session.web_lapses import WEB_DEAD, Lapses
from intramuros.control.session.web_queue import LEASE_US, SEEN_S, WebQueue
from intramuros.control.store import events, leases, web_claims
from intramuros.control.store import work as rows
from intramuros.control.store.db import Tx
from intramuros.control.store.leases import Lease
from intramuros.control.store.records import Draft, Record
from intramuros.kernel.errors import Conflict
from intramuros.protocol.web_calls import WebAnswer, WebCall, WebClaim
from tests.fakes.loop import text, use, uses
from tests.fakes.messages_rules import check_messages
from tests.fakes.observer import Observer
from tests.fakes.world import World

HISTORIES: Final = 25
CHOICES: Final = 40
SECOND: Final = 1_000_000
PATIENCE_US: Final = 15 * SECOND
TURN_US: Final = 4 * SECOND
BROUGHT: Final = "from inside"
WEB: Final = frozenset({"web_fetch", "web_search"})
URL: Final = "http://intranet.test/page"


class Over(Exception):
    """No more choices."""


@dataclass(eq=False)
class Worker:
    """A worker and the calls that it believes to have; ``done`` ones it has answered."""

    name: str
    has: list[WebCall] = field(default_factory=list)
    done: list[WebCall] = field(default_factory=list)


class History:
    """One session and everybody around it."""

    def __init__(self, world: World, choices: bytes) -> None:
        self.world, self.left = world, deque(choices)
        self.queue = WebQueue(
            world.db,  # type: ignore[arg-type]  # everything happens in one transaction
            world.hub,
            world.clock,
            world.journal,
            lambda *_: None,
        )
        self.lapses = Lapses(world.db, world.clock, world.journal, lambda: 0.0)  # type: ignore[arg-type]
        self.session = world.create()
        self.workers = [Worker("a"), Worker("b")]
        for worker in self.workers:
            for name in WEB:
                queue = f"web/{world.environment_id}/{name}"
                rows.note_poller(world.tx, queue, worker.name, world.now_us)
        self.lease: Lease | None = None
        self.decided: tuple[list[Draft], Effect, int] | None = None
        self.effect: Effect | None = None
        self.claims: dict[str, int] = {}
        self.model_calls = 0
        self.observer = Observer(self_hosted=True)

    def choose(self, count: int) -> int:
        if not self.left:
            raise Over
        return self.left.popleft() % count

    def begin(self) -> None:
        """Play through to the first calls that are handed over."""
        self.world.say(self.session, f"read {URL}")
        for move in (self.decide, self.write, self.land, self.decide, self.write, self.land):
            move()

    def play(self) -> None:
        self.begin()
        try:
            while True:
                steps = self.steps()
                steps[self.choose(len(steps))]()
                self.look()
        except Over:
            self.look()
        self.settle()

    def steps(self) -> list[Callable[[], None]]:
        if self.effect is not None:
            steps = [self.land] * 4
        elif self.decided is not None:
            steps = [self.write] * 4
        else:
            steps = [self.decide] * 4
        busy = [worker for worker in self.workers if worker.has]
        steps += [self.take, self.take, self.take, self.later, self.later, self.lapse]
        if busy:
            steps += [self.beat, self.answer, self.die, self.die]
        if any(worker.done for worker in self.workers):
            steps.append(self.again)
        return [*steps, self.crash, self.forge, self.client]

    # The loop, over the queue of turns.

    def view(self) -> View:
        return load_view(self.world.tx, self.session, None, WEB)

    def context(self, lease: Lease) -> Context:
        world = self.world
        return Context(world.now_us, lease.epoch, lambda: world.ids.new("sevt"), lambda: 0.5)

    def decide(self) -> None:
        tx, now_us = self.world.tx, self.world.now_us
        if self.lease is None:
            leases.reap(tx, leases.TURNS, now_us)
            self.lease = leases.claim(tx, leases.TURNS, "loop", now_us, TURN_US)
        if self.lease is not None:
            view = self.view()
            drafts, effect = plan(view, self.context(self.lease))
            self.decided = drafts, effect, view.state.last_seq

    def write(self) -> None:
        assert self.decided is not None
        assert self.lease is not None
        (drafts, effect, seq), self.decided = self.decided, None
        tx = self.world.tx
        if events.last_seq(tx, self.session) != seq:
            return
        self.record(drafts)
        if isinstance(effect, Wait):
            if effect.until_us is None:
                leases.finish(tx, self.lease, self.world.now_us)
            else:
                leases.postpone(tx, self.lease, self.world.now_us, effect.until_us)
            self.lease = None
            return
        self.effect = effect

    def record(self, drafts: list[Draft]) -> None:
        """Append as the loop does, with the watch that offers what was handed over."""
        assert self.lease is not None
        if drafts:
            world = self.world
            held = world.journal.held(world.tx, self.session, self.lease.epoch)
            written = world.journal.record(world.tx, held, drafts)
            self.queue.offer(world.tx, self.view(), written)

    def land(self) -> None:
        assert self.lease is not None
        effect, self.effect = self.effect, None
        view, context = self.view(), self.context(self.lease)
        if isinstance(effect, CallModel):
            check_messages(effect.request.messages)
            self.record(outcome.replied(view, effect, self.reply(), [], context))
            return
        assert isinstance(effect, MakeCalls)
        for call in effect.calls:
            self.record([self.handed(view, call, context)])

    def handed(self, view: View, call: Call, context: Context) -> Draft:
        name = view.find([call.id])[0].body["name"]
        ask = {
            "name": name,
            "asked": URL,
            "allowed": [],
            "blocked": [],
            "location": {},
            "max_tokens": None,
            "timeout_s": 5.0,
        }
        return outcome.web_handed(call, outcome.Handed(ask, PATIENCE_US), context)

    def reply(self) -> ModelReply:
        self.model_calls += 1
        if self.model_calls > 6:
            return text("done")
        blocks = [use("web_fetch", f"toolu_{self.model_calls}", url=URL)]
        if self.model_calls % 2:
            blocks.append(use("web_search", f"toolu_{self.model_calls}b", query="q"))
        return ModelReply(uses(*blocks).content, "tool_use", Usage(1, 1))

    def crash(self) -> None:
        """The server is killed; its lease on the turn lapses by itself."""
        self.lease = self.effect = self.decided = None

    # Workers.

    def take(self) -> None:
        self.claim(self.workers[self.choose(2)])

    def claim(self, worker: Worker) -> bool:
        queues = [f"web/{self.world.environment_id}/{name}" for name in sorted(WEB)]
        call = self.queue._claim(self.world.tx, self.world.worker, queues, worker.name)
        if call is None:
            return False
        assert call.id not in self.claims, "a call is given out once"
        self.claims[call.id] = self.world.now_us
        assert self.waits(call), "nobody is sent out for nothing"
        worker.has.append(call)
        return True

    def beat(self) -> None:
        for worker in self.workers:
            for call in worker.has:
                said = WebClaim(ticket=call.ticket, epoch=call.epoch)
                held = self.held(call)
                wanted = self.queue._beat(self.world.tx, self.world.worker, call.id, said)
                assert wanted == (held and self.waits(call) and not self.late(call))

    def answer(self) -> None:
        busy = [worker for worker in self.workers if worker.has]
        worker = busy[self.choose(len(busy))]
        call = worker.has.pop(0)
        wanted = self.held(call) and self.waits(call)
        assert self.give(call) == wanted, "taken as long as it is waited for, and not after"
        worker.done.append(call)

    def again(self) -> None:
        """The server's word was lost on its way: the worker says the same again."""
        done = [call for worker in self.workers for call in worker.done]
        assert not self.give(done[self.choose(len(done))])

    def forge(self) -> None:
        """Somebody answers under a claim that is not his."""
        for worker in self.workers:
            for call in worker.has:
                assert not self.give(call, epoch=call.epoch + 1)

    def die(self) -> None:
        busy = [worker for worker in self.workers if worker.has]
        busy[self.choose(len(busy))].has.clear()

    def give(self, call: WebCall, **more: Any) -> bool:
        said = {
            "ticket": call.ticket,
            "epoch": call.epoch,
            "content": [{"type": "text", "text": BROUGHT}],
            **more,
        }
        body = WebAnswer.model_validate(said)
        try:
            self.queue._answer(self.world.tx, self.world.worker, call.id, body)
        except Conflict:
            return False
        return True

    def state(self) -> State:
        return self.world.journal.hold(self.world.tx, self.session).state

    def waits(self, call: WebCall) -> bool:
        found = self.state().locate(call.id)
        return found is not None and found[1].until_us is not None

    def late(self, call: WebCall) -> bool:
        found = self.state().locate(call.id)
        assert found is not None
        assert found[1].until_us is not None
        return found[1].until_us <= self.world.now_us

    def held(self, call: WebCall) -> bool:
        queue, _, key = call.ticket.partition(":")
        try:
            leases.check(self.world.tx, queue, key, call.epoch)
        except leases.LostLease:
            return False
        return True

    # Time, and the client.

    def later(self) -> None:
        self.world.clock.advance((1, 3, 7)[self.choose(3)])

    def lapse(self) -> None:
        """Nobody is given up before the time is over, and everybody then."""
        tx, now_us = self.world.tx, self.world.now_us
        found = web_claims.lapsed(tx, now_us)
        for claim in found:
            self.lapses._answer(tx, claim)
        assert web_claims.lapsed(tx, now_us) == []
        assert all(claim.key.startswith(self.session) for claim in found)

    def client(self) -> None:
        """Ask for more, and now and then stop what goes on."""
        if self.choose(4) == 0:
            self.world.send(self.session, {"type": "user.interrupt"})
        self.world.say(self.session, f"read {URL} again")

    # What must hold.

    def log(self) -> list[Record]:
        return events.read(self.world.tx, self.session)

    def look(self) -> None:
        for record in self.log()[self.observer.seq :]:
            self.observer.see(record)

    def settle(self) -> None:
        """Everybody behaves from here on, but for workers that died."""
        for _ in range(200):
            if self.effect is not None:
                self.land()
            elif self.decided is not None:
                self.write()
            else:
                self.decide()
            for worker in self.workers:
                while self.claim(worker):
                    pass
                while worker.has:
                    self.give(worker.has.pop())
            self.lapse()
            self.look()
            if self.decided is None and self.effect is None:
                state = self.state()
                if self.observer.status == "idle" and not state.due and not state.calls:
                    break
                self.world.clock.advance(1)
        else:
            raise AssertionError("the session never comes to rest")
        self.observer.rests()
        assert self.claims.keys() >= self.brought(), "nobody answers what nobody has"

    def brought(self) -> set[str]:
        """The calls that a worker answered."""
        results = [r for r in self.log() if r.type == "agent.tool_result"]
        said = {str(r.body["tool_use_id"]): r.body["content"][0]["text"] for r in results}  # type: ignore[index]
        assert len(said) == len(results), "each call has one result"
        assert set(said.values()) <= KNOWN
        return {use_id for use_id, text in said.items() if text == BROUGHT}


KNOWN: Final = {
    BROUGHT,
    WEB_DEAD,
    WEB_LOST,
    WEB_UNANSWERED,
    "The call was interrupted before it had a result.",
}


@contextmanager
def undone(tx: Tx) -> Iterator[None]:
    """Leave nothing of an example to the next one."""
    point = tx.connection.begin_nested()
    try:
        yield
    finally:
        point.rollback()


@pytest.mark.timeout(240)
def test_whoever_dies_each_call_is_made_once_and_has_one_result(world: World) -> None:
    @given(st.binary(min_size=CHOICES, max_size=CHOICES))
    @settings(
        max_examples=HISTORIES,
        deadline=None,
        # A history is short and costs much: the one that fails is shown as it is.
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    def every(choices: bytes) -> None:
        with undone(world.tx):
            History(world, choices).play()

    every()


def handed_over(world: World) -> tuple[History, WebCall]:
    """A history whose first call a worker has claimed."""
    history = History(world, b"")
    history.begin()
    history.decide()
    history.write()
    assert history.claim(history.workers[0])
    return history, history.workers[0].has[0]


def test_a_worker_that_lives_keeps_its_call_for_as_long_as_it_takes(world: World) -> None:
    history, call = handed_over(world)
    for _ in range(12):
        world.clock.advance(1)
        history.beat()
        history.lapse()
    assert history.give(call)


def test_a_worker_that_says_nothing_is_given_up_and_comes_too_late(world: World) -> None:
    history, call = handed_over(world)
    world.clock.advance(LEASE_US / SECOND - 0.1)
    history.lapse()
    assert history.waits(call), "not a moment too early"
    world.clock.advance(0.2)
    history.lapse()
    assert not history.waits(call)
    since_us = world.now_us - round(SEEN_S * SECOND)
    for name in WEB:
        queue = f"web/{world.environment_id}/{name}"
        assert rows.count_pollers(world.tx, queue, since_us) == 1, "the other worker is there yet"
    result = history.log()[-1]
    assert result.body["tool_use_id"] == call.id
    assert result.body["content"] == [{"type": "text", "text": WEB_DEAD}]
    assert history.state().due or history.state().calls, "the loop goes on with it"
    assert not history.give(call)
    history.beat()
    history.settle()


def test_an_answer_that_beats_the_judgement_counts(world: World) -> None:
    """Between the look and the act the worker was heard of: nothing is written twice."""
    history, call = handed_over(world)
    world.clock.advance(7)
    (claim,) = web_claims.lapsed(world.tx, world.now_us)
    history.beat()
    assert not history.lapses._answer(world.tx, claim), "it lives after all"
    world.clock.advance(7)
    (claim,) = web_claims.lapsed(world.tx, world.now_us)
    assert history.give(call)
    assert not history.lapses._answer(world.tx, claim)
    history.settle()
