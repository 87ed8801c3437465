"""Schedulers over one database file, and a clock that moves only when told."""

from functools import partial

import anyio
import pytest
from sqlalchemy import select, update

from intramuros.control.catalog.kinds import AGENT
from intramuros.control.deployment import deployments, scheduler
from intramuros.control.deployment.deployments import QUEUE
from intramuros.control.deployment.scheduler import LEASE_S, Scheduler
from intramuros.control.deployment.timetable import GRACE_US
from intramuros.control.store import leases
from intramuros.control.store.leases import Lease
from intramuros.control.store.tables import resources, sessions
from intramuros.kernel.service import Stop
from tests.fakes.deployments import HOURLY, Desk, Stage, schedule

pytestmark = pytest.mark.anyio

HOUR_S = 3600


async def test_R218_R219_R231_it_fires_when_the_delay_is_over_and_not_before(stage: Stage) -> None:
    deployment_id = await stage.make()
    stage.clock.advance(HOUR_S)
    assert await stage.one.fire_due() == 0
    await stage.fire_at(deployment_id)
    stage.clock.advance(-0.000_001)
    assert await stage.one.fire_due() == 0
    stage.clock.advance(0.000_001)
    started = stage.clock.now()
    assert await stage.one.fire_due() == 1
    (run,) = await stage.history(deployment_id)
    assert run["trigger_context"] == {
        "type": "schedule",
        "scheduled_at": "2026-01-01T01:00:00.000000Z",
    }
    shown = (await stage.shown(deployment_id))["schedule"]
    assert shown["last_run_at"].startswith(f"{started:%Y-%m-%dT%H:%M:%S}")
    assert shown["upcoming_runs_at"][0] == "2026-01-01T02:00:00.000000Z"
    assert await stage.one.fire_due() == 0
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    assert await stage.scheduled(deployment_id) == ["2026-01-01T01:00", "2026-01-01T02:00"]


async def test_R218_last_run_ignores_runs_by_hand_and_survives_archiving(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.desk.runs.by_hand(stage.db, stage.desk.world.api, deployment_id)
    assert (await stage.shown(deployment_id))["schedule"]["last_run_at"] is None
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    at = (await stage.shown(deployment_id))["schedule"]["last_run_at"]
    assert at is not None
    stage.clock.advance(60)
    await stage.desk.runs.by_hand(stage.db, stage.desk.world.api, deployment_id)
    await stage.act(lambda desk: desk.archive(deployment_id))
    assert (await stage.shown(deployment_id))["schedule"]["last_run_at"] == at


async def test_R222_R233_a_paused_one_does_not_fire_and_can_be_run(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.act(lambda desk: desk.pause(deployment_id))
    stage.clock.advance(3 * HOUR_S)
    await stage.one.fire_due()
    assert await stage.history(deployment_id) == []
    row = await stage.desk.runs.by_hand(stage.db, stage.desk.world.api, deployment_id)
    (run,) = await stage.history(deployment_id)
    assert (run["id"], run["trigger_context"]) == (row.id, {"type": "manual"})
    assert run["session_id"] is not None


async def test_R223_what_was_missed_while_paused_is_not_made_up(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.act(lambda desk: desk.pause(deployment_id))
    # Not even the one that would be within the grace.
    stage.clock.advance(3 * HOUR_S + 120)
    await stage.act(lambda desk: desk.unpause(deployment_id))
    await stage.one.fire_due()
    assert await stage.history(deployment_id) == []
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    assert await stage.scheduled(deployment_id) == ["2026-01-01T04:00"]


async def test_Q21_after_a_standstill_one_run_at_most_is_made_up(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.act(lambda desk: desk.change(deployment_id, schedule=schedule("* * * * *")))
    stage.clock.advance(7 * HOUR_S + 30)
    await stage.one.fire_due()
    assert await stage.scheduled(deployment_id) == ["2026-01-01T07:00"]


async def test_Q21_what_is_later_than_the_grace_is_skipped(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.fire_at(deployment_id)
    stage.clock.advance(GRACE_US / 1_000_000 + 1)
    await stage.one.fire_due()
    assert await stage.history(deployment_id) == []
    await stage.fire_at(deployment_id)
    stage.clock.advance(GRACE_US / 1_000_000)
    await stage.one.fire_due()
    assert await stage.scheduled(deployment_id) == ["2026-01-01T02:00"]


async def test_clocks_that_jump_run_nothing_twice(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    stage.clock.advance(-2 * HOUR_S)
    await stage.one.fire_due()
    # Even where the schedule is planned anew at the earlier time.
    await stage.act(lambda desk: desk.pause(deployment_id))
    await stage.act(lambda desk: desk.unpause(deployment_id))
    for _ in range(3):
        await stage.fire_at(deployment_id)
        await stage.one.fire_due()
    assert await stage.scheduled(deployment_id) == sorted(
        ["2026-01-01T01:00", "2026-01-01T00:00", "2026-01-01T02:00"]
    )
    stage.clock.advance(365 * 24 * HOUR_S)
    await stage.one.fire_due()
    times = await stage.scheduled(deployment_id)
    assert len(times) == len(set(times)) <= 4


async def test_R221_two_schedulers_share_what_is_due(stage: Stage) -> None:
    ids = [await stage.make() for _ in range(40)]
    stage.clock.advance(HOUR_S + 9 * 60)
    two = stage.scheduler("two")
    counts: list[int] = []

    async def fire(one: Scheduler) -> None:
        counts.append(await one.fire_due())

    async with anyio.create_task_group() as group:
        group.start_soon(fire, stage.one)
        group.start_soon(fire, two)
    assert sum(counts) == 40
    assert [await stage.scheduled(one) for one in ids] == [["2026-01-01T01:00"]] * 40


async def claimed(stage: Stage) -> Lease:
    def claim(desk: Desk) -> Lease | None:
        return leases.claim(
            desk.world.tx, QUEUE, "dead", desk.world.now_us, round(LEASE_S * 1_000_000)
        )

    lease: Lease | None = await stage.act(claim)
    assert lease is not None
    return lease


async def test_R221_a_fire_whose_holder_died_is_made_by_another(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.fire_at(deployment_id)
    lease = await claimed(stage)
    assert await stage.one.fire_due() == 0
    stage.clock.advance(LEASE_S)
    assert await stage.one.fire_due() == 1
    assert await stage.scheduled(deployment_id) == ["2026-01-01T01:00"]
    # The dead one was only slow: it wakes up and writes nothing.
    await stage.one._fire(lease)
    assert await stage.scheduled(deployment_id) == ["2026-01-01T01:00"]


@pytest.mark.parametrize("act", ["archive", "pause"])
async def test_an_act_that_beats_a_claimed_fire_wins(stage: Stage, act: str) -> None:
    deployment_id = await stage.make()
    await stage.fire_at(deployment_id)
    lease = await claimed(stage)
    await stage.act(lambda desk: getattr(desk, act)(deployment_id))
    await stage.one._fire(lease)
    stage.clock.advance(LEASE_S)
    await stage.one.fire_due()
    assert await stage.history(deployment_id) == []


async def test_a_schedule_that_changes_while_its_fire_is_claimed(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.fire_at(deployment_id)
    lease = await claimed(stage)
    await stage.act(lambda desk: desk.change(deployment_id, schedule=schedule("30 * * * *")))
    await stage.one._fire(lease)
    assert await stage.history(deployment_id) == []
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    assert await stage.scheduled(deployment_id) == ["2026-01-01T01:30"]


async def test_other_changes_while_a_fire_is_claimed_are_in_it(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.fire_at(deployment_id)
    lease = await claimed(stage)
    other = stage.desk.world.environment_ids["cloud"]
    await stage.act(lambda desk: desk.change(deployment_id, environment_id=other))
    await stage.one._fire(lease)
    (run,) = await stage.history(deployment_id)
    used = select(sessions.c.environment_id).where(sessions.c.id == run["session_id"])
    assert await stage.db.read(lambda tx: tx.scalar(used)) == other


async def test_R224_an_agent_archived_with_its_deployments_leaves_no_run(stage: Stage) -> None:
    deployment_id = await stage.make()

    def away(desk: Desk) -> None:
        deployments.archive_of_agent(desk.world.tx, desk.actor, desk.world.agent_id)
        desk.put_agent_away()

    await stage.act(away)
    stage.clock.advance(2 * HOUR_S)
    await stage.one.fire_due()
    assert await stage.history(deployment_id) == []
    assert (await stage.shown(deployment_id))["archived_at"] is not None


@pytest.mark.parametrize("how", ["deleted", "archived"])
async def test_R225_an_agent_that_is_gone_archives_at_the_next_trigger(
    stage: Stage, how: str
) -> None:
    other = await stage.act(lambda desk: desk.agent())
    deployment_id = await stage.make(agent=other)

    def lose(desk: Desk) -> None:
        gone = {"id": "agent_gone", "version": 1}
        body = {**desk.get(deployment_id).body, "agent": gone}
        changed = update(resources).where(resources.c.id == deployment_id).values(body=body)
        if how == "deleted":
            desk.world.tx.execute(changed)
        else:
            desk.put_away(AGENT, other)

    await stage.act(lose)
    assert (await stage.shown(deployment_id))["archived_at"] is None
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    assert await stage.history(deployment_id) == []
    assert (await stage.shown(deployment_id))["archived_at"] is not None
    assert (await stage.act(lambda desk: desk.acts()))[-1] == "deployment.archive"


@pytest.mark.timeout(240)
async def test_a_thousand_that_are_due_at_once(stage: Stage) -> None:
    def fill(desk: Desk) -> None:
        for _ in range(1000):
            desk.make(schedule=HOURLY)

    await stage.act(fill)
    stage.clock.advance(HOUR_S + 9 * 60)
    assert await stage.one.fire_due() == 1000
    counted = select(sessions.c.deployment_id)
    started = await stage.db.read(lambda tx: list(tx.execute(counted).scalars()))
    assert len(started) == len(set(started)) == 1000


async def test_it_runs_until_it_is_stopped(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "POLL_S", 0.01)
    deployment_id = await stage.make()
    stop = Stop()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(stage.one.run, stop))
            await stage.fire_at(deployment_id)
            while not await stage.history(deployment_id):  # noqa: ASYNC110  it raises no event
                await anyio.sleep(0.01)
            stop.request()
