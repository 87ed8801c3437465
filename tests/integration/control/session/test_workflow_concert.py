"""Workflow runs over the real store, with their steps' requests under way at once."""

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from intramuros.control.model.base import ModelReply, ModelRequest
from intramuros.control.session.fold import fold
from intramuros.control.session.phase import Status
from intramuros.control.session.state import initial, load
from intramuros.kernel.errors import NotFound
from intramuros.kernel.service import Stop
from tests.fakes.band import definition
from tests.fakes.flows import check_runs, flow, phase, planner, step
from tests.fakes.loop import ALLOW, mcp_toolset, text, use, uses
from tests.integration.control.session.rig import Rig
from tests.integration.control.session.test_concert import QUICK, Meeting, cast, rows

pytestmark = pytest.mark.anyio

SCOUT = definition("scout", mcp_toolset(ALLOW), model={"id": "scout"})
PAIR = flow(phase("look", step("a"), step("b")), phase("judge", step("c", "scout", "a", "b")))


def planning() -> dict[str, Any]:
    return {**planner(SCOUT), "model": {"id": "lead"}}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path / "log.db", settings=QUICK)
    yield made
    made.db.close()


async def runs_of(rig: Rig, session: str) -> list[Any]:
    log = await rig.log(session)
    check_runs(log)
    return [r.body["result"] for r in log if r.type == "workflow_run.status_ended"]


async def test_the_steps_of_a_phase_are_asked_at_once(rig: Rig) -> None:
    together = Meeting(2, text("found"))
    model = cast(
        rig,
        lead=[uses(PAIR), text("at work"), text("read")],
        scout=[together, together, text("judged")],
    )
    session = await rig.create(planning())
    async with rig.running():
        await rig.say(session)
        await rig.until(session, lambda s: s.turn == 2 and not s.due and s.status is Status.IDLE)
    assert together.full.is_set()
    assert await runs_of(rig, session) == [{"type": "completed"}]
    assert "judged" in str(model.requests[-1].messages[-1])
    stored = await rows(rig)
    assert [row.status for row in stored] == ["terminated"] * 3
    assert len({load(row.state).run_id for row in stored}) == 1
    assert (await rig.lease(session)).holder is None


@pytest.mark.parametrize("how", ["stopped", "timeout"])
async def test_requests_of_a_run_that_ends_early_are_cut_short(
    rig: Rig, tmp_path: Path, how: str
) -> None:
    if how == "timeout":
        limits = replace(QUICK.drive.limits, run_s=0.3)
        rig.db.close()
        drive = replace(QUICK.drive, limits=limits)
        rig = Rig(tmp_path / "other.db", settings=replace(QUICK, drive=drive))
    never = Meeting(2, None)

    async def stop(request: ModelRequest) -> ModelReply:
        await never.full.wait()
        run_id = str(request.messages).split("workflow run wrun_")[1].split(" ")[0]
        return uses(use("stop_workflow", "toolu_x", workflow_run_id=f"wrun_{run_id}"))

    parts = [stop] if how == "stopped" else [text("at work")]
    cast(rig, lead=[uses(PAIR), *parts, text("over")], scout=[never, never])
    session = await rig.create(planning())
    async with rig.running():
        await rig.say(session)
        await rig.until(session, lambda s: s.turn > 0 and not s.due and s.status is Status.IDLE)
    assert never.cancelled == 2
    (result,) = await runs_of(rig, session)
    wanted = "timeout_error" if how == "timeout" else None
    assert result.get("error", {}).get("type") == wanted
    assert [row.status for row in await rows(rig)] == ["terminated"] * 2
    if how == "timeout":
        rig.db.close()


async def test_another_process_goes_on_with_a_run(rig: Rig, tmp_path: Path) -> None:
    never = Meeting(3, None)
    cast(rig, lead=[uses(PAIR), never], scout=[never] * 2)
    session = await rig.create(planning())
    with anyio.CancelScope() as death:
        async with anyio.create_task_group() as group:
            group.start_soon(rig.runner.run, Stop())
            await rig.say(session)
            with anyio.fail_after(60):
                await never.full.wait()
            # Nobody gives the lease back, as after kill -9: it is taken over.
            await rig.usurp(session, state="ready")
            death.cancel()
    other = Rig(tmp_path / "log.db", settings=QUICK, fresh=False)
    cast(other, lead=[text("at work"), text("read")], scout=[text(said) for said in "abc"])
    async with other.running():
        await other.until(session, lambda s: s.turn == 2 and not s.due and s.status is Status.IDLE)
    assert await runs_of(other, session) == [{"type": "completed"}]
    starts = [r for r in await other.log(session) if r.type == "workflow_run.phase_started"]
    assert len(starts) == 2, "nothing of it was begun twice"
    assert len(await rows(other)) == 3
    other.db.close()


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_comes_between_every_run_ends(rig: Rig, seed: int) -> None:
    """Answers at random times, clients that interrupt and archive: the real store agrees."""
    chance = random.Random(seed)

    async def at_last(request: ModelRequest) -> ModelReply:
        await anyio.sleep(chance.random() / 20)
        if request.model == "lead" and chance.random() < 0.4:
            return uses(PAIR)
        if request.model == "scout" and chance.random() < 0.3:
            return uses(use("mcp__db__query"))
        return text("found")

    cast(rig, lead=[at_last] * 500, scout=[at_last] * 500)
    session = await rig.create(planning())
    async with rig.running():
        await rig.say(session)
        for _ in range(20):
            await anyio.sleep(chance.random() / 10)
            state = await rig.state(session)
            children = [thread.thread_id for thread in state.threads[1:]]
            if chance.random() < 0.5 or not children:
                await rig.say(session, "more")
            elif chance.random() < 0.7:
                named = {"session_thread_id": chance.choice(children)}
                with suppress(NotFound):  # it may have ended since
                    await rig.send(session, {"type": "user.interrupt", **named})
            else:
                await rig.send(session, {"type": "user.interrupt"})
        await rig.send(session, {"type": "user.interrupt"})
        final = await rig.until(session, lambda s: s.status is Status.IDLE and not s.due)
    log = await rig.log(session)
    state = initial(final.thread_id, self_hosted=True, crewed=True)
    for record in log:
        state = fold(state, record)
    assert load(state.dump()) == final
    assert final.runs == ()
    assert len(await runs_of(rig, session)) > 0
    stored = {row.id: row for row in await rows(rig)}
    assert {row.status for row in stored.values()} == {"terminated"}
    for thread_id in (None, *stored):
        own = [r for r in log if r.thread_id == thread_id]
        starts = [r.id for r in own if r.type == "span.model_request_start"]
        ends = [r.body["model_request_start_id"] for r in own if r.type.endswith("request_end")]
        assert starts == ends
