"""Any order of client input and loop steps: the rules of input and the loop agree with the log.

Clients say anything at any time, legal or not; the loop goes on step by step and dies now and then.
What the rules of input accept, the fold must take; and when everybody has answered, every call has
exactly one end, as workers count it (contract 22.4).
"""

from contextlib import suppress
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from intramuros.control.session.legality import Past, check, wanted_past
from intramuros.control.session.turn import CallModel, Effect, Wait
from intramuros.control.store.records import Draft, Record
from intramuros.kernel.errors import DomainError
from intramuros.protocol.events import INBOUND
from tests.fakes.loop import ASK, CUSTOM, Loop, agent, away, text, toolset, use, uses

TEXT = [{"type": "text", "text": "x"}]
NAMES = ("user.tool_confirmation", "user.tool_result", "user.custom_tool_result")
ANSWERED_BY = {
    "agent.tool_use": ("user.tool_result", "tool_use_id"),
    "agent.custom_tool_use": ("user.custom_tool_result", "custom_tool_use_id"),
}
TOOLS = st.lists(
    st.sampled_from(["bash", "write", "write", "weather", "unknown"]), min_size=1, max_size=3
)


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        declared = agent(toolset(write={"enabled": True, "permission_policy": ASK}), CUSTOM)
        self.loop = Loop(declared)
        self.effect: Effect | None = None
        self.made = 0

    @property
    def log(self) -> list[Record]:
        return self.loop.log.records

    @property
    def calls(self) -> list[Record]:
        return [r for r in self.log if r.type in ANSWERED_BY]

    def send(self, *events: dict[str, Any]) -> None:
        inbound = [INBOUND.validate_python(event) for event in events]
        state = self.loop.log.state
        past = {use_id: self.past(use_id) for use_id in wanted_past(state, inbound)}
        with suppress(DomainError):
            outcomes = check(state, past, inbound, 0)
            self.loop.log.append(*(o for o in outcomes if isinstance(o, Draft)))

    def past(self, use_id: str) -> Past:
        use = next((r for r in self.log if r.id == use_id), None)
        members = ("tool_use_id", "custom_tool_use_id")
        answers = [r for r in self.log if use_id in (r.body.get(m) for m in members)]
        return Past(use, [r for r in answers if r.type in NAMES])

    @rule(what=st.sampled_from(["say", "say", "instruct", "both", "interrupt"]))
    def speak(self, what: str) -> None:
        message = {"type": "user.message", "content": TEXT}
        instruction = {"type": "system.message", "content": TEXT}
        spoken: dict[str, list[dict[str, Any]]] = {
            "say": [message],
            "instruct": [instruction],
            "both": [message, instruction],
            "interrupt": [{"type": "user.interrupt"}],
        }
        self.send(*spoken[what])

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), together=st.booleans())
    def answer(self, data: st.DataObject, together: bool) -> None:
        """Answer a few of the last calls, in any way, right or wrong, once or twice."""
        ids = st.sampled_from([*[call.id for call in self.calls][-2:], "sevt_unknown"])
        verdicts = st.sampled_from(["allow", "allow", "deny"])
        picks = st.lists(st.tuples(st.sampled_from(NAMES), ids, verdicts), min_size=1, max_size=4)
        events = [answer(*pick) for pick in data.draw(picks)]
        if together:
            self.send(*events, *events)
        else:
            for event in events:
                self.send(event)

    @rule()
    def begin(self) -> None:
        self.effect = self.loop.next()

    @rule(names=st.none() | TOOLS, failed=st.booleans())
    def complete(self, names: list[str] | None, failed: bool) -> None:
        """Bring what the model said, unless an interrupt has cut the request short."""
        interrupted = any(item.type == "user.interrupt" for item in self.loop.log.state.queued)
        if not isinstance(self.effect, CallModel) or interrupted:
            return
        self.loop.model.append(away() if failed else self.reply(names))
        self.loop.perform(self.effect)
        self.effect = None

    def reply(self, names: list[str] | None) -> Any:
        if names is None:
            return text("done")
        self.made += len(names)
        return uses(*(use(name, f"toolu_{self.made}_{n}") for n, name in enumerate(names)))

    @rule(names=TOOLS)
    def turn(self, names: list[str]) -> None:
        """Come to a reply with calls in one go, if nothing else is open."""
        self.speak("say")
        self.begin()
        self.complete(names, failed=False)
        self.begin()

    @rule()
    def die(self) -> None:
        self.loop.crash()
        self.effect = None

    @invariant()
    def no_call_ends_twice(self) -> None:
        for call in self.calls:
            assert len(self.results(call)) <= 1

    def results(self, call: Record) -> list[Record]:
        type, member = ANSWERED_BY[call.type]
        return [r for r in self.log if r.type == type and r.body[member] == call.id]

    def denied(self, call: Record) -> bool:
        return any(
            r.type == "user.tool_confirmation"
            and r.body["tool_use_id"] == call.id
            and r.body["result"] == "deny"
            for r in self.log
        )

    def teardown(self) -> None:
        """Answer everything that is asked for; then nothing is open and nobody waits."""
        for _ in range(60):
            effect = self.loop.next()
            if isinstance(effect, CallModel):
                self.loop.model.append(text("done"))
                self.loop.perform(effect)
                continue
            assert isinstance(effect, Wait)
            state = self.loop.log.state
            if effect.until_us is not None:
                self.loop.log.now_us = effect.until_us
                continue
            if not state.calls:
                break
            for call in state.calls:
                if call.held:
                    self.send(answer("user.tool_confirmation", call.id, "allow"))
                self.send(answer("user.tool_result", call.id, ""))
                self.send(answer("user.custom_tool_result", call.id, ""))
        state = self.loop.log.state
        assert state.status == "idle"
        assert not state.due
        assert not state.calls
        assert [item for item in state.queued if item.type != "system.message"] == []
        for call in self.calls:
            assert len(self.results(call)) == 1 or self.denied(call), call


def answer(type: str, use_id: str, verdict: str) -> dict[str, Any]:
    match type:
        case "user.tool_confirmation":
            return {"type": type, "tool_use_id": use_id, "result": verdict}
        case "user.tool_result":
            return {"type": type, "tool_use_id": use_id, "content": TEXT}
        case _:
            return {"type": type, "custom_tool_use_id": use_id, "content": TEXT}


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
