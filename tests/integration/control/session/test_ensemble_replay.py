"""Any history of several threads, cut by crashes, comes to a valid end (design invariants 2, 3)."""

from collections import Counter, deque
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intramuros.control.mcp.base import McpResult
from intramuros.control.model.base import ModelReply, Usage
from intramuros.control.model.cost import UNITS_PER_CENT
from intramuros.control.session import ensemble
from intramuros.control.session.budget import shown
from intramuros.control.session.calls import RESULTS, USES, Call, CallKind
from intramuros.control.session.drafts import thread_ended
from intramuros.control.session.fold import fold
from intramuros.control.session.judging import AskJudge
from intramuros.control.session.phase import Phase, Status
from intramuros.control.session.state import State, initial, load
from intramuros.control.session.turn import CallModel, Effect, Limits, Wait
from intramuros.control.store.records import Draft
from tests.fakes.band import Band, definition, lead
from tests.fakes.loop import ALLOW, ASK, AUTO, CUSTOM, away, mcp_toolset, opinion, toolset, use
from tests.fakes.messages_rules import check_messages

READ = {"enabled": True, "permission_policy": ASK}
EDIT = {"enabled": True, "permission_policy": AUTO}
WORKER = definition("worker", toolset(ALLOW, read=READ, edit=EDIT), CUSTOM, mcp_toolset())
HELPER = definition("helper", toolset(ASK, edit=EDIT))
NAMES = ["bash", "read", "weather", "mcp__db__query", "mcp__db__insert", "nonsense", "edit"]
LEADS = toolset(ALLOW, read=READ, edit=EDIT)
CREW = ["send", "send", "follow", "consult_advisor", "list_agents"]


class History:
    """Draws what happens next, and checks what must hold all along."""

    declared = lead(WORKER, HELPER, advisor=True, tools=[LEADS, CUSTOM])
    limits = Limits(failures=2, rounds=5)

    def __init__(self, draw: Any, self_hosted: bool) -> None:
        self.draw = draw
        self.band = Band(self.declared, self_hosted=self_hosted, limits=self.limits)
        self.toolu = 0
        if (cap := draw(st.none() | st.integers(1, 30))) is not None:
            self.band.log.append(Draft("internal.budget", {"budget": shown(cap)}))
        self.band.log.say("begin")

    def choose(self, *options: str) -> str:
        return self.draw(st.sampled_from(options))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.planned()
            self.step()
        self.settle()

    def planned(self) -> None:
        """Plan as two processes would, see them agree, append, and see what is awaited."""
        band = self.band

        def twice() -> object:
            fixed = deque(f"sevt_x{n}" for n in range(3000))
            context = replace(band.context, new_id=fixed.popleft)
            return ensemble.plan(band.view, context, band.flights)

        assert twice() == twice()
        band.next()
        state = band.log.state
        assert state.told, "the session says what its threads add up to"
        assert not any(thread.own_due for thread in self.resting())
        assert (state.status is Status.RUNNING) == any(
            thread.own_status is Status.RUNNING for thread in state.threads
        )
        for thread_id, effect in band.flights.items():
            assert thread_id in {thread.thread_id for thread in state.threads}
            if isinstance(effect, CallModel):
                assert effect.opened.epoch == band.epoch
                check_messages(effect.request.messages)

    def resting(self) -> list[State]:
        """The threads that wait for somebody, as the loop looks at them."""
        state = self.band.log.state
        consults = any(call.kind is CallKind.CREW for call in state.calls)
        return [
            thread if thread is state else state.at(thread)
            for thread in state.threads
            if thread.thread_id not in self.band.flights
            and thread.phase is not Phase.RESCHEDULING
            and not (thread is state and consults)
        ]

    def step(self) -> None:
        band = self.band
        event = self.choose("land", "land", "land", "land", "client", "client", "crash", "time")
        if event == "crash":
            band.crash()
        elif event == "time":
            times = [t.retry_at_us for t in band.log.state.threads if t.retry_at_us]
            band.log.now_us = max([band.log.now_us, *times])
        elif event == "land" and band.flights:
            self.land(self.draw(st.sampled_from(sorted(band.flights))))
        else:
            self.client()

    def land(self, thread_id: str, *, calm: bool = False) -> None:
        band = self.band
        effect: Effect = band.flights[thread_id]
        if isinstance(effect, CallModel):
            name = str(band.seen(thread_id).subject.agent["name"])
            fails = not calm and self.draw(st.integers(0, 5)) == 0
            reply = away(self.draw(st.booleans())) if fails else self.reply(name, calm=calm)
            band.scripts[name].append(reply)
        elif isinstance(effect, AskJudge):
            for _ in effect.asked:
                mood = "allow" if calm else self.choose("allow", "deny", "cannot_tell", "rude")
                band.scripts["judge"].append(opinion(mood))
        else:
            band.mcp.extend(McpResult([{"type": "text", "text": "ok"}]) for _ in range(9))
        band.land(thread_id)
        band.mcp.clear()

    def reply(self, name: str, *, calm: bool = False) -> ModelReply:
        count = 0 if calm or name.startswith("anthropic") else self.draw(st.integers(0, 2))
        blocks: list[dict[str, object]] = []
        if self.draw(st.booleans()):
            blocks.append({"type": "text", "text": self.draw(st.sampled_from(["", "hm"]))})
        for _ in range(count):
            self.toolu += 1
            blocks.append(self.use(name, f"toolu_{self.toolu}"))
        stop = "tool_use" if count else self.choose("end_turn", "refusal", "max_tokens")
        cents = self.draw(st.integers(0, 2))
        return ModelReply(blocks, stop, Usage(1, 1), cents * UNITS_PER_CENT)

    def use(self, name: str, model_id: str) -> dict[str, object]:
        if name != "lead" or self.draw(st.booleans()):
            return use(self.draw(st.sampled_from(NAMES)), model_id)
        kind = self.draw(st.sampled_from(CREW))
        if kind == "send":
            agent = self.draw(st.sampled_from(["worker", "helper", "nobody"]))
            return use("send_to_agent", model_id, agent=agent, message="do it")
        if kind == "follow":
            crew = self.band.log.state.crew
            known = [m.state.thread_id for m in crew.members] if crew else []
            thread_id = self.draw(st.sampled_from([*known, "sthr_none"]))
            return use("send_to_agent", model_id, thread_id=thread_id, message="more")
        return use(kind, model_id)

    def client(self) -> None:
        band = self.band
        state = band.log.state
        what = self.choose("message", "interrupt", "one", "archive", "answer", "answer", "answer")
        waiting = [(t, c) for t in state.threads for c in t.calls if not c.refused]
        thread = self.draw(st.sampled_from(state.threads))
        if what == "answer" and waiting:
            self.answer(*self.draw(st.sampled_from(waiting)))
        elif what == "interrupt":
            band.interrupt()
        elif what == "one" and thread is not state:
            band.interrupt(thread.thread_id)
        elif what == "archive" and thread is not state:
            member = state.member(thread.thread_id)
            rests = thread.own_status is Status.IDLE
            if member is not None and rests and not state.at(thread).own_due:
                band.log.append(thread_ended(thread.thread_id, member.name))
        else:
            band.log.say("hello")

    def answer(self, thread: State, call: Call, verdict: str | None = None) -> None:
        band = self.band
        if call.held:
            if call.confirmation_id is None:
                result = verdict or self.choose("allow", "deny")
                kind = "user.tool_confirmation"
                band.answer(kind, thread, tool_use_id=call.id, result=result)
        elif call.kind is CallKind.CUSTOM:
            band.answer("user.custom_tool_result", thread, custom_tool_use_id=call.id)
        elif call.kind is CallKind.SANDBOX and call.permitted:
            kind = "user.tool_result" if thread.self_hosted else "agent.tool_result"
            band.answer(kind, thread, tool_use_id=call.id)

    def settle(self) -> None:
        """Everybody behaves from here on; the session must come to rest."""
        band = self.band
        for _ in range(300):
            self.planned()
            state = band.log.state
            waiting = [
                (t, c) for t in state.threads for c in t.calls if c.kind is not CallKind.CREW
            ]
            times = [t.retry_at_us for t in state.threads if t.retry_at_us]
            if band.flights:
                self.land(sorted(band.flights)[0], calm=True)
            elif times:
                band.log.now_us = max([band.log.now_us, *times])
            elif waiting:
                for thread, call in waiting:
                    self.answer(thread, call, "allow")
            elif state.capped():
                band.log.append(Draft("session.updated", {"budget": None}))
            elif all(thread.phase is Phase.IDLE for thread in state.threads):
                assert not state.due
                assert not any(thread.queued for thread in state.threads)
                return
        raise AssertionError("the session never comes to rest")


def check_log(band: Band) -> None:
    records = [record for record in band.log.records if not record.queued]
    over = {r.thread_id for r in records if r.type == "session.thread_status_terminated"}
    used = {record.id: record.thread_id for record in records if record.type in USES}
    results = Counter(r.body[RESULTS[r.type][1]] for r in records if r.type in RESULTS)
    denied = {
        r.body["tool_use_id"]
        for r in records
        if r.type == "user.tool_confirmation" and r.body["result"] == "deny"
    }
    for use_id, thread_id in used.items():
        # A call of an archived thread can get no result any more.
        free = use_id in denied or thread_id in over
        assert results[use_id] == 1 or (results[use_id] == 0 and free)
    assert set(results) <= used.keys()
    for thread_id in {record.thread_id for record in records}:
        own = [record for record in records if record.thread_id == thread_id]
        starts = [r.id for r in own if r.type == "span.model_request_start"]
        ends = [r.body["model_request_start_id"] for r in own if r.type == "span.model_request_end"]
        assert starts == ends, "each request has one end, one at a time in each thread"
    first = next(r for r in band.shown() if r.type.startswith("session.thread_status"))
    assert first.body["session_thread_id"] == "sthr_main"
    types = band.types()
    for place, type in enumerate(types):
        if type == "session.status_idle":
            assert types[place - 1] == "session.usage"
    check_shown(band)


def check_shown(band: Band) -> None:
    """What the session's view shows of children is complete: a client can act on it alone."""
    seen = {record.id for record in band.shown()}
    for idle in (r for r in band.shown() if r.type == "session.status_idle"):
        reason: Any = idle.body["stop_reason"]
        assert set(reason.get("event_ids", ())) <= seen
    for record in band.log.shown:
        if record.type in RESULTS and record.type != "agent.mcp_tool_result":
            use_id = record.body[RESULTS[record.type][1]]
            assert (record.id in seen) == (use_id in seen), "an answer stands by its question"


def check_folds(band: Band) -> None:
    state = initial("sthr_main", self_hosted=band.log.state.self_hosted, crewed=True)
    for record in band.log.records:
        state = load(fold(state, record).dump())
    assert state == band.log.state


@given(st.data(), st.booleans(), st.integers(1, 60))
@pytest.mark.timeout(240)
@settings(max_examples=60, deadline=None)
def test_every_history_comes_to_a_valid_end(data: Any, self_hosted: bool, steps: int) -> None:
    history = History(data.draw, self_hosted)
    history.run(steps)
    check_log(history.band)
    check_folds(history.band)


@pytest.mark.timeout(240)
def test_every_prefix_of_a_session_can_be_taken_over() -> None:
    """Run a session once; then let a new process take over behind each of its records."""

    def reply(*blocks: dict[str, object]) -> ModelReply:
        return ModelReply(list(blocks), "tool_use" if blocks else "end_turn", Usage(1, 1))

    say = ModelReply([{"type": "text", "text": "found"}], "end_turn", Usage(1, 1))
    whole = Band(
        lead(WORKER, HELPER, advisor=True),
        lead=[
            reply(
                use("send_to_agent", "toolu_1", agent="worker", message="a"),
                use("send_to_agent", "toolu_2", agent="helper", message="b"),
                use("consult_advisor", "toolu_3"),
            ),
            *[say] * 3,
        ],
        worker=[reply(use("mcp__db__insert", "toolu_4"), use("edit", "toolu_5")), say],
        judge=[opinion("deny")],
        helper=[say],
        anthropic__advisor=[say],
    )
    whole.mcp.extend([McpResult([])] * 2)
    whole.log.say()
    whole.run()
    assert whole.log.state.status is Status.IDLE
    for cut in range(1, len(whole.log.records) + 1):
        again = Band(whole.subject.agent)
        for name in ("lead", "worker", "helper", "anthropic.advisor"):
            again.scripts[name].extend([say] * 9)
        again.scripts["judge"].append(opinion("deny"))
        again.mcp.extend([McpResult([])] * 9)
        for record in whole.log.records[:cut]:
            again.log.records.append(record)
            again.log.state = fold(again.log.state, record)
        again.log.now_us = again.log.records[-1].at_us
        again.log.new_id = iter(f"sevt_again_{n}" for n in range(10_000)).__next__
        again.crash()
        again.run()
        assert all(thread.phase is Phase.IDLE for thread in again.log.state.threads), cut
        check_log(again)
        assert not isinstance(again.next().get("sthr_main"), CallModel)
        assert all(isinstance(effect, Wait) for effect in again.next().values())
