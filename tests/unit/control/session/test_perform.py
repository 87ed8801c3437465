"""Effects bring outcomes; they never write."""

from dataclasses import replace

import anyio
import pytest

from intramuros.control.mcp.base import McpResult
from intramuros.control.model.base import Failure, ModelError, ModelReply, ModelRequest, Usage
from intramuros.control.session import perform
from intramuros.control.session.evaluation import AskGrader
from intramuros.control.session.judging import AskJudge
from intramuros.control.session.perform import Outcome, Performer
from intramuros.control.session.turn import CallModel, Limits, ListTools, MakeCalls
from intramuros.control.store.notify import Hub, session_topic
from tests.fakes.effects import ScriptedConnector, ScriptedModel
from tests.fakes.loop import (
    AUTO,
    Loop,
    agent,
    away,
    mcp_toolset,
    text,
    toolset,
    unreachable,
    use,
    uses,
    verdict,
)

pytestmark = pytest.mark.anyio


async def never(_: Outcome) -> None:
    raise AssertionError("nothing is early")


def performer(*answers: ModelReply) -> Performer:
    model = ScriptedModel()
    model.answers.extend(answers)
    return Performer(model, ScriptedConnector(), Hub())


def until(loop: Loop, kind: type) -> object:
    loop.log.say()
    while not isinstance(effect := loop.next(), kind):
        loop.perform(effect)
    return effect


async def test_a_reply_is_whispered_and_brought_back() -> None:
    loop = Loop(agent())
    effect = until(loop, CallModel)
    assert isinstance(effect, CallModel)
    makes = performer(text("hi"))
    with makes.hub.subscribe(session_topic("sesn_1")) as heard:
        outcome = await makes.call_model(loop.view, effect, loop.context)
        assert len(heard.take_whispers()) == 3
    drafts = outcome(loop.view, loop.context)
    assert [draft.type for draft in drafts] == ["agent.message", "span.model_request_end"]


async def test_a_failed_request_is_an_outcome_too() -> None:
    loop = Loop(agent())
    effect = until(loop, CallModel)
    assert isinstance(effect, CallModel)
    makes = performer()
    makes.model.answers.append(away())
    outcome = await makes.call_model(loop.view, effect, loop.context)
    types = [draft.type for draft in outcome(loop.view, loop.context)]
    assert types[-1] == "session.status_rescheduled"


async def test_a_reply_that_is_never_whole_is_given_up_and_tried_again() -> None:
    """A provider may give signs of life for ever, and never come to an end."""
    loop = Loop(agent())
    effect = until(loop, CallModel)
    assert isinstance(effect, CallModel)
    makes = replace(performer(), reply_s=0.05)

    async def never(request: object) -> ModelReply:
        await anyio.sleep_forever()
        raise AssertionError

    makes.model.answers.append(never)
    outcome = await makes.call_model(loop.view, effect, loop.context)
    drafts = outcome(loop.view, loop.context)
    assert drafts[-1].type == "session.status_rescheduled"
    assert "not whole within 0.05 s" in str(drafts[1].body)


@pytest.mark.parametrize(("allowed", "ending"), [(0, "idle"), (1, "rescheduled")])
async def test_the_request_before_the_turn_is_given_up_says_so(allowed: int, ending: str) -> None:
    loop = Loop(agent(), limits=Limits(failures=allowed))
    effect = until(loop, CallModel)
    assert isinstance(effect, CallModel)
    makes = performer()
    makes.model.answers.append(away())
    outcome = await makes.call_model(loop.view, effect, loop.context)
    drafts = outcome(loop.view, loop.context)
    assert drafts[-1].type == f"session.status_{ending}"
    assert [asked.last_try for asked in makes.model.requests] == [ending == "idle"]


async def test_one_server_away_does_not_hide_the_others() -> None:
    other = {"type": "url", "name": "other", "url": "https://other.example/mcp"}
    declared = agent(mcp_toolset(), {**mcp_toolset(), "mcp_server_name": "other"})
    declared["mcp_servers"].append(other)
    loop = Loop(declared)
    effect = until(loop, ListTools)
    assert isinstance(effect, ListTools)
    makes = performer()

    class Half(ScriptedConnector):
        async def tools(self, caller: object, server: object) -> object:
            if server.name == "db":
                raise unreachable()
            return self.found

    half = Performer(makes.model, Half(), makes.hub)
    outcome = await half.list_tools(loop.view, effect)
    types = [draft.type for draft in outcome(loop.view, loop.context)]
    assert types == ["session.error", "internal.mcp_tools", "internal.mcp_listed"]


async def test_every_answer_but_the_last_is_recorded_early() -> None:
    reply = uses(use("mcp__db__insert", "toolu_1"), use("mcp__db__query", "toolu_2"))
    loop = Loop(agent(mcp_toolset()), model=[reply])
    effect = until(loop, MakeCalls)
    assert isinstance(effect, MakeCalls)
    recorded = anyio.Event()
    early: list[str] = []

    async def record(outcome: Outcome) -> None:
        early.extend(str(d.body["mcp_tool_use_id"]) for d in outcome(loop.view, loop.context))
        recorded.set()

    async def handler(tool: str) -> McpResult:
        if tool == "insert":
            await recorded.wait()
        return McpResult([])

    makes = performer()
    makes.connector.handler = handler
    outcome = await makes.make_calls(loop.view, effect, record)
    (last,) = outcome(loop.view, loop.context)
    first, second = effect.calls
    assert early == [second.id]
    assert last.body["mcp_tool_use_id"] == first.id


async def test_a_call_goes_out_with_the_models_arguments() -> None:
    loop = Loop(agent(mcp_toolset()), model=[uses(use("mcp__db__query", sql="select 1"))])
    effect = until(loop, MakeCalls)
    assert isinstance(effect, MakeCalls)
    makes = performer()
    await makes.make_calls(loop.view, effect, never)
    assert makes.connector.calls == [("query", {"sql": "select 1"})]


async def test_a_grader_is_asked_and_shows_that_it_works() -> None:
    loop = Loop(agent(), model=[text("done")])
    loop.log.aim()
    loop.perform(loop.next())
    effect = loop.next()
    assert isinstance(effect, AskGrader)
    slowly = anyio.Event()
    signs: list[list[str]] = []

    async def answer(_: ModelRequest) -> ModelReply:
        await slowly.wait()
        return verdict(True)

    async def early(outcome: Outcome) -> None:
        signs.append([draft.type for draft in outcome(loop.view, loop.context)])
        if len(signs) == 2:
            slowly.set()

    makes = performer()
    makes.model.answers.append(answer)  # type: ignore[attr-defined]
    outcome = await makes.ask_grader(loop.view, effect, early, 0.01)
    assert signs[:2] == [["span.outcome_evaluation_ongoing"]] * 2
    assert [d.type for d in outcome(loop.view, loop.context)] == ["internal.outcome_graded"]


async def test_a_grader_that_is_away_is_an_outcome_too() -> None:
    loop = Loop(agent(), model=[text("done")])
    loop.log.aim()
    loop.perform(loop.next())
    effect = loop.next()
    assert isinstance(effect, AskGrader)
    makes = performer(away())  # type: ignore[arg-type]
    outcome = await makes.ask_grader(loop.view, effect, never, 60)
    assert "session.status_rescheduled" in [d.type for d in outcome(loop.view, loop.context)]


class Keeper:
    """A gate that lets through or not, and remembers what it was told."""

    def __init__(self, refusal: ModelError | None = None) -> None:
        self.refusal = refusal
        self.asked: list[tuple[str, str, str]] = []
        self.told: list[Usage | None] = []

    async def admit(self, workspace_id: str, session_id: str, request: ModelRequest) -> "Keeper":
        self.asked.append((workspace_id, session_id, request.model))
        if self.refusal is not None:
            raise self.refusal
        return self

    allowed = None

    def settle(self, usage: Usage | None) -> None:
        self.told.append(usage)


async def test_every_model_request_passes_the_gate_and_says_what_it_used() -> None:
    loop = Loop(agent())
    effect = until(loop, CallModel)
    assert isinstance(effect, CallModel)
    keeper = Keeper()
    makes = replace(performer(text("hi")), gate=keeper)
    await makes.call_model(loop.view, effect, loop.context)
    subject = loop.view.subject
    assert keeper.asked == [(subject.workspace_id, subject.session_id, effect.request.model)]
    assert [type(usage) for usage in keeper.told] == [Usage]
    makes.model.answers.append(away())
    await makes.call_model(loop.view, effect, loop.context)
    assert keeper.told[1:] == [None]


async def test_a_request_that_the_gate_refuses_is_not_sent_and_the_session_waits() -> None:
    loop = Loop(agent())
    effect = until(loop, CallModel)
    assert isinstance(effect, CallModel)
    refusal = ModelError(Failure.RATE_LIMITED, "too fast", retryable=True, retry_after_s=90.0)
    makes = replace(performer(text("never")), gate=Keeper(refusal))
    outcome = await makes.call_model(loop.view, effect, loop.context)
    drafts = outcome(loop.view, loop.context)
    assert drafts[-1].type == "session.status_rescheduled"
    assert len(makes.model.answers) == 1


async def test_c5_28_the_agents_pin_goes_out_with_every_request() -> None:
    loop = Loop(agent(model={"id": "m", "inference_geo": "us"}))
    effect = until(loop, CallModel)
    assert isinstance(effect, CallModel)
    makes = performer(text("hi"))
    await makes.call_model(loop.view, effect, loop.context)
    assert [request.inference_geo for request in makes.model.requests] == ["us"]


async def test_a_judge_is_asked_again_and_says_when_it_is_the_last_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(perform, "JUDGE_PAUSE_S", 0.0)
    loop = Loop(agent(toolset(AUTO)), model=[uses(use("bash", "toolu_1"), use("read", "toolu_2"))])
    effect = until(loop, AskJudge)
    assert isinstance(effect, AskJudge)
    makes = performer()
    makes.model.answers += [away()] * perform.JUDGE_TRIES * 2
    recorded: list[Outcome] = []

    async def early(outcome: Outcome) -> None:
        recorded.append(outcome)

    last = await makes.ask_judge(loop.view, effect, early, 5.0)
    assert last(loop.view, loop.context) == [], "every verdict was handed over before"
    marks = [draft for brought in recorded for draft in brought(loop.view, loop.context)]
    assert [draft.body["permission"] for draft in marks] == ["ask", "ask"]
    tries = [(request.failures, request.last_try) for request in makes.model.requests]
    assert sorted(tries) == sorted([(0, False), (1, False), (2, True)] * 2)
