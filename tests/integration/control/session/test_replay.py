"""Any history, cut at any point by crashes, comes to a valid end (design invariants 2 and 3)."""

from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from intramuros.control.mcp.base import McpResult
from intramuros.control.model.base import ModelReply, Usage
from intramuros.control.model.cost import UNITS_PER_CENT
from intramuros.control.session import judging, outcomes
from intramuros.control.session.budget import change, shown
from intramuros.control.session.calls import RESULTS, USES, CallKind
from intramuros.control.session.evaluation import AskGrader
from intramuros.control.session.fold import fold
from intramuros.control.session.grading import BATCH, criteria
from intramuros.control.session.judging import AskJudge
from intramuros.control.session.opinion import JUDGED
from intramuros.control.session.phase import Phase
from intramuros.control.session.state import initial, load
from intramuros.control.session.turn import CallModel, Effect, Limits, MakeCalls, Wait, plan
from intramuros.control.session.view import View
from intramuros.control.store.records import Draft
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.budgets import BudgetLimit
from tests.fakes.loop import (
    ALLOW,
    ASK,
    AUTO,
    CUSTOM,
    WEB,
    Loop,
    agent,
    away,
    found,
    mcp_toolset,
    opinion,
    toolset,
    use,
    verdict,
)
from tests.fakes.messages_rules import check_messages

NAMES = ["bash", "read", "weather", "mcp__db__query", "mcp__db__insert", "nonsense", "edit", "edit"]
NAMES += ["web_search", "web_fetch"]
READ = {"enabled": True, "permission_policy": ASK}
EDIT = {"enabled": True, "permission_policy": AUTO}
DECLARED = agent(toolset(ALLOW, read=READ, edit=EDIT, web_fetch=READ), CUSTOM, mcp_toolset())


class History:
    """Draws what happens next, and checks what must hold all along."""

    def __init__(self, draw: Any, self_hosted: bool) -> None:
        self.draw = draw
        limits = Limits(failures=3, rounds=6)
        self.loop = Loop(DECLARED, self_hosted=self_hosted, limits=limits, served=WEB)
        self.loop.web.extend(repeat(found("hit", searches=1), 100))
        self.toolu = 0
        self.rubric = "\n".join(f"- c{n}" for n in range(draw(st.sampled_from([1, 2, 23]))))
        if (cap := draw(st.none() | st.integers(1, 30))) is not None:
            self.loop.log.append(Draft("internal.budget", {"budget": shown(cap)}))

    def choose(self, *options: str) -> str:
        return self.draw(st.sampled_from(options))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step(self.planned())
        self.settle()

    def planned(self) -> Effect:
        """Plan as two processes would, see them agree, append, and see what is awaited."""
        loop = self.loop
        context = loop.context

        def twice() -> object:
            fixed = deque(f"sevt_x{n}" for n in range(200))
            return plan(
                loop.view,
                type(context)(
                    context.now_us, context.epoch, fixed.popleft, context.rand, context.limits
                ),
            )

        assert twice() == twice()
        before = loop.log.state
        effect = loop.next()
        state = loop.log.state
        if isinstance(effect, Wait):
            assert state.announced == state.blocking
            assert not state.due or effect.until_us is not None
        elif isinstance(effect, CallModel):
            assert effect.opened.epoch == loop.epoch
            assert not before.capped(context.now_us), "no request begins at the cap"
        elif isinstance(effect, AskGrader):
            assert effect.aim == state.aim
            assert effect.aim.asked_epoch == loop.epoch
            assert not before.capped(context.now_us), "nor does the grader"
        elif isinstance(effect, AskJudge):
            assert state.request is not None
            assert state.request.judge_epoch == loop.epoch
            assert not before.capped(context.now_us), "nor does a judge"
            assert not state.calls, "nothing runs before the verdicts"
        elif isinstance(effect, MakeCalls):
            assert {call.started_epoch for call in effect.calls} == {loop.epoch}
        return effect

    def step(self, effect: Effect) -> None:
        if isinstance(effect, Wait):
            self.client(effect)
            return
        event = self.choose("perform", "perform", "perform", "crash", "input", "fail")
        if event == "crash":
            if isinstance(effect, AskJudge):
                self.opine(effect)
                for asked in effect.asked[: self.draw(st.integers(0, 2))]:
                    answer = self.loop.judge.popleft()
                    self.loop.log.append(*judging.answered(self.loop.view, asked, answer))
                self.loop.judge.clear()
            self.loop.crash()
        elif event == "input":
            self.send()
            if not self.stopped(effect):
                self.perform(effect)
        else:
            self.perform(effect, fail=event == "fail")

    def stopped(self, effect: Effect) -> bool:
        """An interrupt makes the performer drop what it was doing."""
        return any(item.type == "user.interrupt" for item in self.loop.log.state.queued)

    def perform(self, effect: Effect, fail: bool = False) -> None:
        loop = self.loop
        if isinstance(effect, CallModel):
            check_messages(effect.request.messages)
            loop.model.append(away(self.draw(st.booleans())) if fail else self.reply())
        if isinstance(effect, MakeCalls):
            loop.mcp.extend(McpResult([{"type": "text", "text": "ok"}]) for _ in effect.calls)
        if isinstance(effect, AskGrader):
            loop.grader.append(away(self.draw(st.booleans())) if fail else self.judge(effect))
        if isinstance(effect, AskJudge):
            self.opine(effect)
        loop.perform(effect)

    def opine(self, effect: AskJudge) -> None:
        """Answer as judges may."""
        for _ in effect.asked:
            mood = self.choose("allow", "deny", "cannot_tell", "rude", "away", "late")
            answers = {"rude": ModelReply([], "refusal"), "away": away(), "late": None}
            answer = answers.get(mood, opinion(mood))
            if answer is not None and isinstance(answer, ModelReply):
                answer = replace(answer, cost=self.draw(st.integers(0, 2)) * UNITS_PER_CENT)
            self.loop.judge.append(answer)

    def judge(self, effect: AskGrader, passes: bool = False) -> ModelReply:
        """Answer as a grader may: rightly, rudely, or not at all."""
        left = min(BATCH, len(criteria(self.rubric)) - effect.aim.graded)
        mood = "fair" if passes else self.choose("fair", "fair", "fair", "silent", "rude")
        if mood == "fair":
            met = [passes or self.draw(st.booleans()) for _ in range(left)]
            answer = verdict(*met, first=effect.aim.graded + 1)
        elif mood == "silent":
            answer = ModelReply([], "end_turn")
        else:
            answer = verdict(True, first=99, applies=self.draw(st.sampled_from([False, "no", 0])))
        return replace(answer, cost=self.draw(st.integers(0, 2)) * UNITS_PER_CENT)

    def reply(self, uses: int | None = None) -> ModelReply:
        count = self.draw(st.integers(0, 3)) if uses is None else uses
        blocks: list[dict[str, object]] = []
        if self.draw(st.booleans()):
            blocks.append({"type": "text", "text": self.draw(st.sampled_from(["", "hm"]))})
        for _ in range(count):
            self.toolu += 1
            name = self.draw(st.sampled_from(NAMES))
            blocks.append(use(name, f"toolu_{self.toolu}", query="x", url="https://x.com"))
        stop = "tool_use" if count else self.choose("end_turn", "refusal", "max_tokens")
        cents = self.draw(st.integers(0, 4))
        return ModelReply(blocks, stop, Usage(1, 1), cents * UNITS_PER_CENT)

    def client(self, wait: Wait) -> None:
        """Whatever a client, a worker or time may do while the loop waits."""
        loop = self.loop
        if wait.until_us is not None and self.draw(st.booleans()):
            loop.log.now_us = wait.until_us
            return
        self.send()

    def send(self) -> None:
        loop = self.loop
        state = loop.log.state
        open_calls = [call for call in state.calls if not call.refused]
        acts = ["message", "interrupt", "answer", "answer", "answer", "system", "outcome"]
        what = self.choose(*acts, *(["budget"] if state.budget_cents else []))
        if what == "answer" and open_calls:
            self.answer(self.draw(st.sampled_from(open_calls)))
        elif what == "interrupt":
            loop.log.send("user.interrupt")
        elif what == "system" and state.phase is Phase.IDLE:
            loop.log.send("system.message", content=[{"type": "text", "text": "note"}])
        elif what == "outcome":
            loop.log.aim(self.rubric, self.draw(st.integers(1, 3)))
        elif what == "budget":
            self.budget(self.draw(st.none() | st.integers(1, 100)))
        else:
            loop.log.say(self.choose("", "hello"))

    def budget(self, cents: int | None) -> None:
        """Change or remove the cap as the API would, if it lets us."""
        log = self.loop.log
        state, wanted = log.state, None
        if cents is not None:
            money = {"amount": str(cents), "currency": "USD"}
            wanted = BudgetLimit.model_validate({"type": "limit", "max_list_cost": money})
        with suppress(InvalidRequest):
            changed, shown = change(state, wanted, log.now_us)
            if changed:
                log.append(Draft("session.updated", {"budget": shown}))

    def answer(self, call: Any, verdict: str | None = None) -> None:
        log = self.loop.log
        if call.held:
            if call.confirmation_id is None:
                result = verdict or self.choose("allow", "deny")
                log.send("user.tool_confirmation", tool_use_id=call.id, result=result)
        elif call.kind is CallKind.CUSTOM:
            log.send("user.custom_tool_result", custom_tool_use_id=call.id)
        elif call.kind is CallKind.SANDBOX and call.permitted:
            if log.state.self_hosted:
                log.send("user.tool_result", tool_use_id=call.id)
            else:
                log.append(Draft("agent.tool_result", {"tool_use_id": call.id}))

    def behave(self, effect: Effect) -> None:
        loop = self.loop
        if isinstance(effect, CallModel):
            check_messages(effect.request.messages)
            loop.model.append(self.reply(uses=0))
        if isinstance(effect, MakeCalls):
            loop.mcp.extend(McpResult([]) for _ in effect.calls)
        if isinstance(effect, AskGrader):
            loop.grader.append(self.judge(effect, passes=True))
        if isinstance(effect, AskJudge):
            loop.judge.extend(opinion("allow") for _ in effect.asked)
        loop.perform(effect)

    def settle(self) -> None:
        """Everybody behaves from here on; the session must come to rest."""
        loop = self.loop
        for _ in range(200):
            effect = self.planned()
            state = loop.log.state
            if not isinstance(effect, Wait):
                self.behave(effect)
            elif effect.until_us is not None:
                loop.log.now_us = effect.until_us
            elif state.calls:
                for call in state.calls:
                    self.answer(call, "allow")
            elif state.capped() and (state.queued or state.next_aim or state.phase is Phase.PAUSED):
                self.budget(None)
            elif state.aim:
                loop.log.say("go on")  # its turn was given up or refused
            elif state.phase is Phase.IDLE:
                return
        raise AssertionError("the session never comes to rest")


def check_log(loop: Loop) -> None:
    shown = loop.log.shown
    used = [record.id for record in shown if record.type in USES]
    results = Counter(
        record.body[RESULTS[record.type][1]] for record in shown if record.type in RESULTS
    )
    denied = {
        record.body["tool_use_id"]
        for record in shown
        if record.type == "user.tool_confirmation" and record.body["result"] == "deny"
    }
    for use_id in used:
        assert results[use_id] == 1 or (results[use_id] == 0 and use_id in denied)
    assert set(results) <= set(used)
    check_verdicts(loop)
    starts = [record.id for record in shown if record.type == "span.model_request_start"]
    ends = [
        record.body["model_request_start_id"]
        for record in shown
        if record.type == "span.model_request_end"
    ]
    assert starts == ends
    assert len({record.id for record in shown}) == len(shown)
    assert not loop.log.state.queued or all(
        item.type == "system.message" for item in loop.log.state.queued
    )
    check_outcomes(loop)
    types = [record.type for record in shown]
    for place, type in enumerate(types):
        if type == "session.status_idle":
            assert types[place - 2 : place] == ["session.thread_status_idle", "session.usage"]


def check_verdicts(loop: Loop) -> None:
    """Each verdict is its call's, and there is one for each call that wants one."""
    marks = [record for record in loop.log.records if record.type == JUDGED]
    found = {record.body["use_id"]: record.body["permission"] for record in marks}
    assert len(found) == len(marks)
    used = [record for record in loop.log.shown if record.type in USES]
    auto = {
        record.id: record.body["evaluated_permission"]
        for record in used
        if record.body.get("evaluation", {}).get("type") == "auto"
    }
    assert auto == found


def check_outcomes(loop: Loop) -> None:
    """Each outcome ends once; each evaluation is its start's; nothing else begins in between."""
    shown = loop.log.shown
    defined = [r.body["outcome_id"] for r in shown if r.type == outcomes.DEFINE]
    closed = [r for r in shown if r.type == outcomes.END]
    over = [r.body["outcome_id"] for r in closed if r.body["result"] in outcomes.TERMINAL]
    assert sorted(map(str, over)) == sorted(map(str, defined))
    open_id = ""
    iterations: Counter[object] = Counter()
    for record in shown:
        if record.type == outcomes.START:
            assert not open_id
            open_id = record.id
        elif record.type == outcomes.END:
            assert record.body["outcome_evaluation_start_id"] in ("", open_id)
            about = record.body["outcome_id"]
            if record.body["outcome_evaluation_start_id"]:
                open_id = ""
            assert record.body["iteration"] == iterations[about]
            iterations[about] += 1
        elif record.type == outcomes.ONGOING:
            assert open_id
        elif record.type in ("span.model_request_start", "session.thread_status_idle"):
            paused = record.body.get("stop_reason") == {"type": "budget_reached"}
            assert not open_id or paused
    assert not open_id


def check_folds(loop: Loop) -> None:
    state = initial("sthr_main", self_hosted=loop.log.state.self_hosted)
    for record in loop.log.records:
        state = load(fold(state, record).dump())
    assert state == loop.log.state


@given(st.data(), st.booleans(), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_every_history_comes_to_a_valid_end(data: Any, self_hosted: bool, steps: int) -> None:
    history = History(data.draw, self_hosted)
    history.loop.log.say("begin")
    history.run(steps)
    check_log(history.loop)
    check_folds(history.loop)


def test_every_prefix_of_a_session_can_be_taken_over() -> None:
    """Run a session once; then let a new process take over behind each of its records."""
    script = [
        ModelReply([use("mcp__db__insert", "toolu_1"), use("bash", "toolu_2")], "tool_use"),
        ModelReply([use("read", "toolu_3"), use("weather", "toolu_4")], "tool_use"),
        ModelReply([use("edit", f"toolu_{n}") for n in (5, 6, 7)], "tool_use"),
        ModelReply([{"type": "text", "text": "done"}], "end_turn"),
    ]
    judges = [opinion("allow"), opinion("deny"), None]
    whole = Loop(DECLARED, model=script, mcp=[McpResult([])], judge=judges)
    whole.log.say()
    _finish(whole)
    for cut in range(1, len(whole.log.records) + 1):
        rest = [ModelReply([], "end_turn")] * 9
        judges = [opinion("allow")] * 9
        again = Loop(DECLARED, model=rest, mcp=[McpResult([])] * 9, judge=judges)
        for record in whole.log.records[:cut]:
            again.log.records.append(record)
            again.log.state = fold(again.log.state, record)
        again.log.now_us = again.log.records[-1].at_us
        again.log.new_id = iter(f"sevt_again_{n}" for n in range(10_000)).__next__
        again.crash()
        _finish(again)
        check_log(again)
        assert isinstance(again.view, View)


def test_every_prefix_of_an_evaluation_goes_on_the_same_way() -> None:
    """What comes next follows from the records alone; whoever takes over brings it to an end."""
    rubric = "\n".join(f"- c{n}" for n in range(22))
    whole = Loop(
        DECLARED,
        model=[ModelReply([{"type": "text", "text": said}], "end_turn") for said in "abc"],
        grader=[
            ModelReply([], "end_turn"),
            verdict(*[False] * 20),
            away(),
            verdict(True, True, first=21),
            verdict(*[False] * 20),
            verdict(True, False, first=21),
        ],
    )
    whole.log.aim(rubric, iterations=2)
    while (until_us := whole.run().until_us) is not None:
        whole.log.now_us = until_us
    check_log(whole)
    for cut in range(1, len(whole.log.records) + 1):
        again = Loop(
            DECLARED,
            model=[ModelReply([], "end_turn")] * 9,
            grader=[ModelReply([], "end_turn")] * 20,
        )
        again.log.records += whole.log.records[:cut]
        for record in again.log.records:
            again.log.state = load(fold(again.log.state, record).dump())
        again.log.now_us = again.log.records[-1].at_us
        again.log.new_id = iter(f"sevt_again_{n}" for n in range(10_000)).__next__
        step = View.empty(again.subject, initial("sthr_main", self_hosted=True))
        for record in again.log.records:
            step = step.extend([record])
        ids = [deque(f"sevt_x{n}" for n in range(200)) for _ in range(2)]
        contexts = [replace(again.context, new_id=fresh.popleft) for fresh in ids]
        assert plan(again.view, contexts[0]) == plan(step, contexts[1])
        again.crash()
        while (until_us := again.run().until_us) is not None:
            again.log.now_us = until_us
        check_log(again)


def _finish(loop: Loop) -> None:
    for _ in range(50):
        loop.run()
        state = loop.log.state
        if not state.calls and state.phase is Phase.IDLE:
            return
        for call in state.calls:
            if call.held and call.confirmation_id is None:
                loop.log.send("user.tool_confirmation", tool_use_id=call.id, result="allow")
            elif call.kind is CallKind.CUSTOM:
                loop.log.send("user.custom_tool_result", custom_tool_use_id=call.id)
            elif call.kind is CallKind.SANDBOX and call.permitted:
                loop.log.send("user.tool_result", tool_use_id=call.id)
    raise AssertionError("the session never comes to rest")
