"""Twenty thousand ways in which clients, workers, models and crashes can come between each other.

Each is a short history drawn by Hypothesis, played against the pure core: what the API lets in
(``legality``), what the loop decides, what its effects bring. Between any two steps of the loop
anybody may act, and the loop may die; deciding and writing are two steps, because others may write
in between. An :class:`Observer` that reads only public events judges every record.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intramuros.control.mcp.base import McpResult
from intramuros.control.model.base import Failure, ModelError, ModelReply, Usage
from intramuros.control.session import legality, outcome
from intramuros.control.session.calls import Call
from intramuros.control.session.drafts import error_result
from intramuros.control.session.fold import fold
from intramuros.control.session.legality import Past
from intramuros.control.session.phase import Status
from intramuros.control.session.state import initial, load
from intramuros.control.session.turn import CallModel, Effect, Limits, MakeCalls, Wait, plan
from intramuros.control.session.view import View
from intramuros.control.session.web_lapses import WEB_DEAD
from intramuros.control.store.records import Draft, Record
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.events import INBOUND
from tests.fakes.loop import (
    ALLOW,
    ASK,
    CUSTOM,
    WEB,
    Loop,
    agent,
    away,
    found,
    mcp_toolset,
    toolset,
    use,
)
from tests.fakes.messages_rules import check_messages
from tests.fakes.observer import Observer

EXAMPLES, EACH = 410, 50
LEAST, CHOICES = 6, 24

READ = {"enabled": True, "permission_policy": ASK}
MCP_TOOLS = {**mcp_toolset(), "configs": [{"name": "query", **READ}]}
DECLARED = agent(toolset(ALLOW, read=READ, web_search=READ), CUSTOM, MCP_TOOLS)
ASKED, SHELL, MCP, OWN = "read", "bash", "mcp__db__insert", "weather"
PAGE, SEARCH = "web_fetch", "web_search"
PATIENCE_US: Final = 1_000
# What a model may answer: these calls at once, or an end of the turn.
REPLIES: Final[list[tuple[str, ...] | str]] = [
    (SHELL,), (ASKED,), (OWN,), (MCP,), ("mcp__db__query",), ("nonsense",),
    (SHELL, ASKED), (ASKED, OWN), (ASKED, MCP), (SHELL, MCP), (OWN, "nonsense"), (MCP, MCP),
    (ASKED, SHELL, OWN), (ASKED, ASKED, MCP),
    (SEARCH,), (PAGE,), (PAGE, SEARCH), (SEARCH, ASKED), (MCP, SEARCH, OWN),
    "end_turn", "end_turn", "refusal", "max_tokens",
]  # fmt: skip
# Calls that are made once: what they do, they may have done.
ONCE: Final = {"insert", "web_fetch", "web_search"}
LIMITS = Limits(failures=2, rounds=4)
# A refusal for what is in the request, wherever that is.
REFUSED = ModelError(Failure.REQUEST_FAILED, "bad", retryable=False, ours=True).at(())
# The same for what another model thought.
FOREIGN = ModelError(Failure.REQUEST_FAILED, "foreign", retryable=False, ours=True).at(
    (), thoughts=True
)
THOUGHT: Final[dict[str, object]] = {"type": "thinking", "thinking": "hm", "signature": "s"}
SOURCE = {"type": "base64", "media_type": "image/png", "data": "aGk="}
IMAGE = {"type": "image", "source": SOURCE}
DONE = ModelReply([{"type": "text", "text": "done"}], "end_turn", Usage(1, 1))


ANSWERS = ("user.tool_confirmation", "user.tool_result", "user.custom_tool_result")


class Over(Exception):
    """No more choices."""


@dataclass
class History:
    """One interleaving. ``choices`` say what happens next; then everybody behaves."""

    choices: bytes
    self_hosted: bool
    inside: bool = True
    loop: Loop = field(init=False)
    observer: Observer = field(init=False)
    decided: tuple[list[Draft], Effect, int] | None = None
    effect: Effect | None = None
    said: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    verdicts: dict[str, str] = field(default_factory=dict)
    parked: bool = False
    begun: set[str] = field(default_factory=set)
    tools: int = 0

    def __post_init__(self) -> None:
        self.loop = Loop(
            DECLARED,
            self_hosted=self.self_hosted,
            limits=LIMITS,
            served=WEB,
            patience_us=PATIENCE_US if self.inside else None,
        )
        self.observer = Observer(self.self_hosted)
        self.left = deque(self.choices)

    def choose(self, count: int) -> int:
        if not self.left:
            raise Over
        return self.left.popleft() % count

    def play(self) -> None:
        self.say("begin with https://x.test/")
        for move in (self.decide, self.write, self.bring, self.decide, self.write):
            move()  # through the listing of tools, to the first request
        try:
            while True:
                steps = self.steps()
                steps[self.choose(len(steps))]()
                self.look()
        except Over:
            self.look()
        self.settle()

    def steps(self) -> list[Callable[[], None]]:
        """What can happen now; what keeps the session going comes most often."""
        if self.effect is not None:
            steps = [self.land, self.land, self.land, self.fail]
        elif self.decided is not None:
            steps = [self.write] * 4
        else:
            # A session that was given back is only taken up when there is something to do.
            steps = [] if self.parked else [self.decide] * 4
        state = self.loop.log.state
        if state.calls:
            steps += [self.answer, self.answer, self.verdict, self.verdict]
        if any(event["type"] in ANSWERS for event in self.said):
            steps.append(self.again)
        if state.retry_at_us is not None:
            steps.append(self.wait)
        if any(call.until_us is not None for call in state.calls):
            steps += [self.worker, self.worker, self.lose, self.late]
        if self.effect and any(item.type == "user.interrupt" for item in state.queued):
            steps.append(self.cut)
        return [*steps, self.message, self.interrupt, self.crash]

    # What the loop does.

    def decide(self) -> None:
        view = self.loop.view
        drafts, effect = plan(view, self.loop.context)
        self.decided = (drafts, effect, view.state.last_seq)

    def write(self) -> None:
        """Append what was decided, if nobody wrote since."""
        assert self.decided is not None
        (drafts, effect, seq), self.decided = self.decided, None
        if self.loop.log.state.last_seq != seq:
            return
        self.loop.log.append(*drafts)
        if isinstance(effect, Wait):
            self.parked = True
            self.look()
            self.observer.waits()
            return
        self.effect = effect
        if isinstance(effect, CallModel):
            assert self.loop.log.state.failures <= LIMITS.failures, "retries end"
            assert self.loop.log.state.rounds < LIMITS.rounds, "and so does a turn"
            check_messages(effect.request.messages)
            assert effect.opened.epoch == self.loop.epoch
        elif isinstance(effect, MakeCalls):
            self.begin(effect)

    def begin(self, effect: MakeCalls) -> None:
        """A call that may have had an effect is not made again."""
        uses = self.loop.view.find([call.id for call in effect.calls])
        once = {record.id for record in uses if record.body["name"] in ONCE}
        assert not once & self.begun
        self.begun |= once

    def land(self) -> None:
        assert self.effect is not None
        if isinstance(self.effect, CallModel):
            self.loop.model.append(self.reply())
        self.bring()

    def fail(self) -> None:
        if isinstance(self.effect, CallModel):
            how = self.choose(5)
            refused = FOREIGN if self.loop.log.state.last_seq % 2 else REFUSED
            self.loop.model.append(refused if how == 4 else away(bool(how % 3)))
        self.bring()

    def bring(self) -> None:
        assert self.effect is not None
        effect, self.effect = self.effect, None
        if isinstance(effect, MakeCalls):
            self.loop.mcp.extend(McpResult([]) for _ in effect.calls)
            self.loop.web.extend(found("a page") for _ in effect.calls)
        self.loop.perform(effect)
        self.loop.mcp.clear()
        self.loop.web.clear()

    def cut(self) -> None:
        """An interrupt makes the performer drop what it does."""
        self.effect = None

    def crash(self) -> None:
        self.loop.crash()
        self.effect = self.decided = None

    def wait(self) -> None:
        at_us = self.loop.log.state.retry_at_us
        assert at_us is not None
        self.loop.log.now_us = max(self.loop.log.now_us, at_us)
        self.parked = False

    def reply(self) -> ModelReply:
        said = REPLIES[self.choose(len(REPLIES))]
        if isinstance(said, str):
            return ModelReply([THOUGHT, {"type": "text", "text": "hm"}], said, Usage(1, 1))
        blocks = [THOUGHT]
        for name in said:
            self.tools += 1
            given = {"query": "q"} if name == SEARCH else {"url": "https://x.test/"}
            blocks.append(use(name, f"toolu_{self.tools}", **given))
        return ModelReply(blocks, "tool_use", Usage(1, 1))

    # What workers do with web calls, as the queue lets them (test_web_queue.py).

    def handed(self) -> Call:
        calls = [call for call in self.loop.log.state.calls if call.until_us is not None]
        return calls[self.choose(len(calls))]

    def worker(self) -> None:
        """Answer a call that was handed over."""
        self.store(outcome.web_answered(self.handed(), found("from inside")))

    def lose(self) -> None:
        """Die with a call: whoever looks after the queue answers it."""
        self.store(error_result(self.handed(), WEB_DEAD, self_hosted=self.self_hosted))

    def late(self) -> None:
        """Take longer than anybody waits."""
        until_us = self.handed().until_us
        assert until_us is not None
        self.loop.log.now_us = max(self.loop.log.now_us, until_us)
        self.parked = False

    def store(self, answer: Draft) -> None:
        self.loop.log.append(answer)
        self.parked = self.parked and not self.loop.log.state.due

    # What others do.

    def send(self, event: dict[str, Any]) -> Record | None:
        """Send an event as the API takes it; None if it is refused, and then nothing is written."""
        log = self.loop.log
        inbound = [INBOUND.validate_python(event)]
        wanted = legality.wanted_past(log.state, inbound)
        past = {use_id: self.past(use_id) for use_id in wanted}
        hosted = event["type"] == "user.tool_result" and not self.self_hosted
        try:
            (heard,) = legality.check(log.state, past, inbound, log.now_us, hosted=hosted)
        except InvalidRequest:
            return None
        if isinstance(heard, Draft):
            self.said.append(event)
            stored = log.append(heard)[0]
            self.parked = self.parked and not log.state.due
            return stored
        assert isinstance(heard, Record), "a repeated answer gives the stored one"
        return heard

    def past(self, use_id: str) -> Past:
        """What the journal reads of a call that is not open."""
        records = self.loop.log.records
        found = next((r for r in records if r.id == use_id), None)
        named = ("tool_use_id", "custom_tool_use_id", "mcp_tool_use_id")
        answers = [r for r in records if use_id in (r.body.get(name) for name in named)]
        return Past(found, answers)

    def say(self, text: str) -> None:
        content = [{"type": "text", "text": text}, IMAGE]
        taken = self.send({"type": "user.message", "content": content})
        assert taken is not None, "a session that lives takes messages"
        self.messages.append(taken.id)

    def message(self) -> None:
        self.say("hello")

    def interrupt(self) -> None:
        self.send({"type": "user.interrupt"})

    def verdict(self) -> None:
        """Confirm a call, whether it waits for that or not."""
        calls = self.loop.log.state.calls
        choice = self.choose(2 * len(calls))
        self.confirm(calls[choice // 2].id, ("allow", "deny")[choice % 2])

    def confirm(self, use_id: str, result: str) -> None:
        call = self.loop.log.state.call(use_id)
        waits = call is not None and call.held and call.confirmation_id is None
        event = {"type": "user.tool_confirmation", "tool_use_id": use_id, "result": result}
        before = self.loop.log.state.last_seq
        taken = self.send(event)
        assert (self.loop.log.state.last_seq > before) == waits
        if waits:
            self.verdicts[use_id] = result
        assert (taken is not None) == (self.verdicts.get(use_id) == result), "the first one counts"

    def answer(self) -> None:
        """Answer a call, whether its permission is there or not."""
        calls = self.loop.log.state.calls
        self.settle_call(calls[self.choose(len(calls))].id)

    def settle_call(self, use_id: str) -> None:
        use = next(r for r in self.loop.log.records if r.id == use_id)
        permission = use.body.get("evaluated_permission")
        if use.type == "agent.custom_tool_use":
            allowed = True
            event = {"type": "user.custom_tool_result", "custom_tool_use_id": use_id}
        else:
            allowed = permission == "allow" or self.verdicts.get(use_id) == "allow"
            # Those of the web are nobody else's to answer.
            allowed = allowed and use.type == "agent.tool_use" and use.body["name"] not in WEB
            event = {"type": "user.tool_result", "tool_use_id": use_id}
        open_yet = self.loop.log.state.call(use_id) is not None
        taken = self.send(event)
        assert (taken is not None) == allowed or not open_yet, "only what was allowed has a result"

    def again(self) -> None:
        """Deliver something a second time: nothing new comes of an answer."""
        answers = [event for event in self.said if event["type"] in ANSWERS]
        before = self.loop.log.state.last_seq
        stored = self.send(answers[self.choose(len(answers))])
        assert self.loop.log.state.last_seq == before
        assert stored is not None, "whoever lost our reply gets it again"

    # What must hold.

    def look(self) -> None:
        """Show the observer what is new."""
        for record in self.loop.log.records[self.observer.seq :]:
            self.observer.see(record)
        state = self.loop.log.state
        assert state.status is Status(self.observer.status.replace("rescheduled", "rescheduling"))
        assert {call.id for call in state.calls} == self.observer.open.keys()

    def settle(self) -> None:
        """Everybody behaves from here on; the session must come to rest."""
        loop = self.loop
        for _ in range(80):
            if self.effect is not None:
                loop.model.append(DONE)
                self.bring()
                loop.model.clear()
            if not self.parked:
                self.decide()
                self.write()
            self.look()
            state = loop.log.state
            if self.effect is not None:
                continue
            if state.retry_at_us is not None:
                self.wait()
            elif state.calls:
                for call in state.calls:
                    self.end(call)
            elif self.parked:
                break
        else:
            raise AssertionError("the session never comes to rest")
        self.observer.rests()
        assert self.observer.heard == self.messages, "each message is heard once, in order"

    def end(self, call: Call) -> None:
        if call.until_us is None:
            self.confirm(call.id, "allow")
            self.settle_call(call.id)
        elif len(self.choices) % 2:
            self.store(outcome.web_answered(call, found("from inside")))
        else:  # nobody is there: time passes, and the loop answers itself
            self.loop.log.now_us = max(self.loop.log.now_us, call.until_us)
            self.parked = False

    def check_replay(self, cut: int) -> None:
        """Whoever reads the log behind any record sees the same, and decides the same."""
        records = self.loop.log.records
        cut %= len(records) + 1
        state = initial("sthr_main", self_hosted=self.self_hosted)
        view = View.empty(self.loop.subject, state)
        for record in records[:cut]:
            state = load(fold(state, record).dump())
            view = view.extend([record])
        whole = View.empty(self.loop.subject, initial("sthr_main", self_hosted=self.self_hosted))
        whole = whole.extend(records[:cut])
        assert view.state == whole.state == state
        plans = []
        for seen in (view, whole):
            ids = iter(f"sevt_x{n}" for n in range(200))
            context = replace(self.loop.context, new_id=ids.__next__)
            plans.append(plan(seen, context))
        assert plans[0] == plans[1]


def spread(seed: int) -> Iterator[bytes]:
    """Yield as many different strings of choices as one example plays.

    Hypothesis likes what is short and what it had before: of twenty thousand strings that it draws
    one by one three thousand are different, and most are over before anything meets.
    """
    dice = random.Random(seed)
    for _ in range(EACH):
        yield dice.randbytes(dice.randint(LEAST, CHOICES))


@given(st.integers(0, 2**64 - 1), st.binary(max_size=CHOICES), st.booleans(), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.timeout(1200)
def test_every_interleaving_keeps_the_contract(
    seed: int, drawn: bytes, self_hosted: bool, inside: bool
) -> None:
    for number, choices in enumerate([drawn, *spread(seed)]):
        history = History(choices, self_hosted, inside)
        try:
            history.play()
            if number % 10 == 0:
                history.check_replay(sum(choices))
        except Exception as error:
            error.add_note(f"History({choices!r}, {self_hosted}, {inside}).play()")
            raise


def test_the_interleavings_are_that_many_and_differ() -> None:
    strings = [choices for seed in range(EXAMPLES) for choices in spread(seed)]
    assert len(strings) >= 20_000
    assert len(set(strings)) > 0.99 * len(strings)
    played = []
    for choices in strings[:200]:
        history = History(choices, self_hosted=True)
        history.play()
        played.append(tuple(record.type for record in history.loop.log.records))
    assert len(set(played)) > 190, "they come to different logs"
