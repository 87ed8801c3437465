"""Judges of calls over the real store: at once, cut short, late, broke, and raced with."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from intramuros.control.identity import audit as audit_log
from intramuros.control.model.base import Failure, ModelError, ModelReply, ModelRequest
from intramuros.control.session import perform
from intramuros.control.session.judging import REFUSED, Bench
from intramuros.kernel.errors import InvalidRequest
from tests.fakes.band import definition, delegate
from tests.fakes.loop import AUTO, agent, away, mcp_toolset, opinion, text, toolset, use, uses
from tests.integration.control.session.rig import Rig
from tests.integration.control.session.test_concert import Meeting, cast, leading
from tests.integration.control.session.test_runner import QUICK, Gate

pytestmark = pytest.mark.anyio

BROKE = ModelError(Failure.BILLING, "no credit", retryable=False)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    limits = replace(QUICK.drive.limits, bench=Bench(timeout_s=0.3))
    settings = replace(QUICK, drive=replace(QUICK.drive, limits=limits))
    rig = Rig(tmp_path / "log.db", settings=settings)
    yield rig
    rig.db.close()


async def verdicts(rig: Rig, session: str) -> list[Any]:
    log = await rig.log(session)
    return [r.body["evaluated_permission"] for r in log if r.type.endswith("tool_use")]


async def test_calls_of_one_reply_are_judged_at_once(rig: Rig) -> None:
    session = await rig.create(agent(mcp_toolset(AUTO)))
    gates = [Gate(opinion("allow")), Gate(opinion("deny"))]
    calls = [use("mcp__db__query", "toolu_1"), use("mcp__db__insert", "toolu_2")]
    rig.model.answers += [uses(*calls), *gates, text("done")]
    async with rig.running():
        await rig.say(session)
        with anyio.fail_after(60):
            for gate in gates:
                await gate.reached.wait()
            assert await verdicts(rig, session) == [], "a call is no call before its verdict"
            gates[1].open.set()
            gates[0].open.set()
        await rig.idle(session)
    assert await verdicts(rig, session) == ["allow", "deny"]
    assert [tool for tool, _ in rig.connector.calls] == ["query"]


async def test_R121_each_denial_is_audited_and_never_runs(rig: Rig) -> None:
    session = await rig.create(agent(mcp_toolset(AUTO)))
    rig.model.answers += [uses(use("mcp__db__insert", sql="drop")), opinion("deny"), text("ok")]
    async with rig.running():
        await rig.say(session)
        await rig.idle(session)
    lines = await rig.db.read(lambda tx: list(audit_log.read_lines(tx)))
    (denial,) = [line for line in lines if "tool.denied" in line]
    for part in ('"reason":"high_risk"', '"server":"db"', '"tool":"insert"', '"sha256"'):
        assert part in denial
    assert "drop" not in denial
    assert rig.connector.calls == []
    said = rig.model.requests[-1].messages[-1]["content"][0]
    assert (said["is_error"], said["content"][0]["text"]) == (True, REFUSED)


async def test_an_interrupt_cuts_the_judges_short(rig: Rig) -> None:
    session = await rig.create(agent(toolset(AUTO)))
    gate = Gate(opinion("allow"))
    rig.model.answers += [uses(use("bash")), gate]
    async with rig.running():
        await rig.say(session)
        with anyio.fail_after(60):
            await gate.reached.wait()
            await rig.send(session, {"type": "user.interrupt"})
            await gate.cancelled.wait()
        state = await rig.idle(session)
    assert state.calls == ()
    assert await verdicts(rig, session) == ["ask"]


async def test_a_call_that_is_being_judged_takes_no_answer(rig: Rig) -> None:
    """Neither a confirmation nor a result can get ahead of the verdict."""
    session = await rig.create(agent(toolset(AUTO)))
    gate = Gate(opinion("deny"))
    rig.model.answers += [uses(use("bash")), gate, text("ok")]
    async with rig.running():
        await rig.say(session)
        with anyio.fail_after(60):
            await gate.reached.wait()
        held = next(r for r in await rig.log(session) if r.type == "internal.reply_held")
        assert held.private is not None
        use_id = held.private["uses"][0][1]
        allow = {"type": "user.tool_confirmation", "tool_use_id": use_id, "result": "allow"}
        for early in (allow, {"type": "user.tool_result", "tool_use_id": use_id}):
            with pytest.raises(InvalidRequest):
                await rig.send(session, early)
        gate.open.set()
        await rig.idle(session)
        with pytest.raises(InvalidRequest):
            await rig.send(session, allow)
    assert await verdicts(rig, session) == ["deny"]


async def never(_: ModelRequest) -> ModelReply:
    await anyio.sleep_forever()
    raise AssertionError


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([away(), opinion("allow")], "allow"),
        ([away(), away(), away()], "ask"),
        ([away(retryable=False)], "ask"),
        ([away(retry_after_s=60)], "ask"),
        ([BROKE], "deny"),
        ([never], "ask"),
        ([text("I allow it.")], "ask"),
    ],
)
async def test_R116_what_a_judge_that_fails_comes_to(
    rig: Rig, answers: list[Any], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perform, "JUDGE_PAUSE_S", 0.01)
    session = await rig.create(agent(toolset(AUTO)))
    rig.model.answers += [uses(use("bash")), *answers, text("ok")]
    async with rig.running():
        await rig.say(session)
        await rig.until(session, lambda state: bool(state.announced) or state.stop == "end_turn")
    assert await verdicts(rig, session) == [verdict]


async def test_calls_of_children_are_judged_while_others_work(rig: Rig) -> None:
    """Both judges wait for each other, so one thread's judging holds nobody else up."""
    helper = definition("helper", toolset(AUTO), model={"id": "helper"})
    together = Meeting(2, opinion("cannot_tell"))
    judged: list[ModelRequest] = []

    async def judge(request: ModelRequest) -> ModelReply:
        judged.append(request)
        return await together(request)

    call = uses(use("bash"))
    cast(rig, lead=[delegate("helper", "helper"), text("wait")], helper=[call, call, judge, judge])
    session = await rig.create(leading(helper))
    async with rig.running():
        await rig.say(session, "Do no harm.")
        state = await rig.until(session, lambda state: len(state.asks) == 2)
    assert state.status == "idle"
    assert await verdicts(rig, session) == ["ask", "ask"]
    assert all("Do no harm." in str(request.messages) for request in judged)
