"""What a scheduler does when a run cannot start, and whom it tells."""

import json
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from intramuros.control.catalog import service, vaults
from intramuros.control.catalog.kinds import AGENT, FILE
from intramuros.control.deployment.deployments import QUEUE
from intramuros.control.deployment.scheduler import LEASE_S
from intramuros.control.identity import audit
from intramuros.control.store import events, leases
from intramuros.control.store.deployment_tables import deployments as rows
from intramuros.control.store.tables import resources, sessions
from intramuros.kernel.errors import InvalidRequest, RateLimited, Unavailable
from intramuros.protocol.resources.vaults import VaultCreate
from tests.fakes.deployments import HOURLY, Desk, Stage
from tests.fakes.outbox import listen, waiting

pytestmark = pytest.mark.anyio

HOUR_S = 3600


async def test_R227_a_scheduled_failure_is_recorded_and_pauses(stage: Stage) -> None:
    vault = await stage.act(
        lambda desk: vaults.create(desk.world.tx, desk.actor, VaultCreate(display_name="V")).id
    )
    deployment_id = await stage.make(vault_ids=[vault])
    await stage.act(lambda desk: vaults.archive(desk.world.tx, desk.actor, vault))
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    (run,) = await stage.history(deployment_id)
    assert run["session_id"] is None
    assert run["error"] == {
        "type": "vault_archived_error",
        "message": f"vault `{vault}` is archived",
    }
    shown = await stage.shown(deployment_id)
    assert shown["status"] == "paused"
    # The same type, and no text (R210).
    assert shown["paused_reason"] == {"type": "error", "error": {"type": "vault_archived_error"}}
    assert shown["schedule"]["last_run_at"] is not None
    assert (await stage.act(lambda desk: desk.acts()))[-2:] == [
        "deployment.run",
        "deployment.pause",
    ]
    stage.clock.advance(5 * HOUR_S)
    await stage.one.fire_due()
    assert len(await stage.history(deployment_id)) == 1
    # Cured and unpaused it goes on.
    await stage.act(lambda desk: desk.change(deployment_id, vault_ids=[]))
    await stage.act(lambda desk: desk.unpause(deployment_id))
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    assert [run["error"] for run in await stage.history(deployment_id)][1:] == [None]


async def test_R226_an_archived_subagent_fails_the_run_and_pauses(stage: Stage) -> None:
    helper = await stage.act(lambda desk: desk.agent(name="Helper"))
    roster = {"type": "coordinator", "agents": [helper]}
    boss = await stage.act(lambda desk: desk.agent(multiagent=roster))
    deployment_id = await stage.make(agent=boss)
    await stage.act(lambda desk: desk.put_away(AGENT, helper))
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    (run,) = await stage.history(deployment_id)
    assert run["error"] == {
        "type": "agent_archived_error",
        "message": f"agent `{helper}` is archived",
    }
    shown = await stage.shown(deployment_id)
    assert shown["paused_reason"] == {"type": "error", "error": {"type": "agent_archived_error"}}
    assert shown["archived_at"] is None


async def test_the_chain_says_that_a_schedule_did_it(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    (run,) = await stage.history(deployment_id)
    lines = await stage.act(lambda desk: list(audit.read_lines(desk.world.tx)))
    (told,) = [line for line in lines if run["id"] in line]
    assert json.loads(told)["fields"] == {
        "id": deployment_id,
        "run_id": run["id"],
        "by": "schedule",
        "session_id": run["session_id"],
        "scheduled_at": "2026-01-01T01:00:00.000000Z",
        "workspace_id": "wrkspc_test",
    }


async def with_rubric(stage: Stage) -> str:
    """Return a deployment whose outcome is graded by a file that is there."""
    deployment_id = await stage.make()

    def put(desk: Desk) -> None:
        file_id = service.create(desk.world.tx, desk.actor, FILE, {}).id
        rubric = {"type": "file", "file_id": file_id}
        event = {"type": "user.define_outcome", "description": "d", "rubric": rubric}
        body = {**desk.get(deployment_id).body, "initial_events": [event]}
        changed = update(resources).where(resources.c.id == deployment_id).values(body=body)
        desk.world.tx.execute(changed)
        desk.texts[file_id] = "it is brief"

    await stage.act(put)
    return deployment_id


async def test_a_rubric_is_read_when_the_run_starts(stage: Stage) -> None:
    deployment_id = await with_rubric(stage)
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    (run,) = await stage.history(deployment_id)
    log = await stage.act(lambda desk: events.read(desk.world.tx, run["session_id"]))
    (defined,) = [record for record in log if record.type == "user.define_outcome"]
    assert defined.body["rubric"] == {"type": "text", "content": "it is brief"}
    row = await stage.desk.runs.by_hand(stage.db, stage.desk.world.api, deployment_id)
    assert row.session_id is not None


async def test_a_rubric_that_cannot_be_read_fails_the_run(stage: Stage) -> None:
    deployment_id = await with_rubric(stage)
    stage.desk.texts.clear()
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    (run,) = await stage.history(deployment_id)
    assert run["error"]["type"] == "session_creation_rejected_error"
    assert (await stage.shown(deployment_id))["status"] == "active"


def refuse(stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """Let session creation fail at its very end, when everything is written."""
    create, asked = stage.desk.world.sessions.create, []

    def fail(*args: Any) -> Any:
        row = create(*args)
        asked.append(row.id)
        raise error

    monkeypatch.setattr(stage.desk.world.sessions, "create", fail)
    return asked


@pytest.mark.parametrize(
    ("error", "type", "pauses"),
    [
        (RateLimited("slow down", retry_after_s=1), "session_rate_limited_error", False),
        (InvalidRequest("no"), "session_creation_rejected_error", False),
        (RuntimeError("bug"), "unknown_error", True),
    ],
)
async def test_R228_what_fails_without_pausing_and_is_not_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception, type: str, pauses: bool
) -> None:
    deployment_id = await stage.make()
    asked = refuse(stage, monkeypatch, error)
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    (run,) = await stage.history(deployment_id)
    assert (run["session_id"], run["error"]["type"]) == (None, type)
    assert ((await stage.shown(deployment_id))["status"] == "paused") is pauses
    # Whatever was written of the session is undone.
    assert len(asked) == 1
    left = select(sessions.c.id).where(sessions.c.deployment_id == deployment_id)
    assert await stage.db.read(lambda tx: tx.scalar(left)) is None
    stage.clock.advance(LEASE_S + 1)
    await stage.one.fire_due()
    assert len(await stage.history(deployment_id)) == 1
    monkeypatch.undo()
    if not pauses:
        await stage.fire_at(deployment_id)
        await stage.one.fire_due()
        assert [r["error"] for r in await stage.history(deployment_id)][1:] == [None]


RUN_EVENTS = ("deployment_run.started", "deployment_run.succeeded", "deployment_run.failed")


async def told_of(stage: Stage) -> list[tuple[str, str]]:
    found = await stage.act(lambda desk: waiting(desk.world.tx))
    return sorted((event["type"], event["id"]) for event in found)


async def test_R265_webhooks_hear_of_a_scheduled_run_under_one_id(stage: Stage) -> None:
    await stage.act(lambda desk: listen(desk.world.tx, *RUN_EVENTS))
    deployment_id = await stage.make()
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    (run,) = await stage.history(deployment_id)
    expected = [
        ("deployment_run.started", run["id"]),
        ("deployment_run.succeeded", run["id"]),
    ]
    assert await told_of(stage) == sorted(expected)
    await stage.act(lambda desk: desk.put_environment_away())
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    failed = (await stage.history(deployment_id))[1]["id"]
    expected += [("deployment_run.started", failed), ("deployment_run.failed", failed)]
    assert await told_of(stage) == sorted(expected)


async def test_R234_webhooks_hear_nothing_of_runs_by_hand(stage: Stage) -> None:
    await stage.act(lambda desk: listen(desk.world.tx, *RUN_EVENTS))
    deployment_id = await stage.make()
    await stage.desk.runs.by_hand(stage.db, stage.desk.world.api, deployment_id)
    await stage.act(lambda desk: desk.put_environment_away())
    await stage.desk.runs.by_hand(stage.db, stage.desk.world.api, deployment_id)
    outcomes = [run["error"] is None for run in await stage.history(deployment_id)]
    assert outcomes == [True, False]
    assert await told_of(stage) == []


async def test_webhooks_hear_what_becomes_of_a_deployment(stage: Stage) -> None:
    kinds = ("created", "updated", "paused", "unpaused", "archived")
    await stage.act(lambda desk: listen(desk.world.tx, *(f"deployment.{k}" for k in kinds)))
    deployment_id = await stage.make()
    await stage.act(lambda desk: desk.change(deployment_id, name="n"))
    await stage.act(lambda desk: desk.change(deployment_id, name="n"))
    for act in ("pause", "pause", "unpause", "unpause"):
        await stage.act(lambda desk, act=act: getattr(desk, act)(deployment_id))
    await stage.act(lambda desk: desk.put_environment_away())
    await stage.fire_at(deployment_id)
    # A schedule that fails pauses, and says so.
    await stage.one.fire_due()
    for _ in range(2):
        await stage.act(lambda desk: desk.archive(deployment_id))
    heard = [kind.partition(".")[2] for kind, one in await told_of(stage) if one == deployment_id]
    assert heard == sorted([*kinds, "paused"])


async def test_a_database_that_was_away_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment_id = await stage.make()
    refuse(stage, monkeypatch, Unavailable("disk full"))
    await stage.fire_at(deployment_id)
    await stage.one.fire_due()
    assert await stage.history(deployment_id) == []
    monkeypatch.undo()
    stage.clock.advance(LEASE_S)
    await stage.one.fire_due()
    assert await stage.scheduled(deployment_id) == ["2026-01-01T01:00"]


async def test_one_that_cannot_be_handled_does_not_stop_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await stage.make(), await stage.make()
    poison = update(resources).where(resources.c.id == bad).values(body={})
    await stage.act(lambda desk: desk.world.tx.execute(poison))
    stage.clock.advance(HOUR_S + 9 * 60)
    assert await stage.one.fire_due() == 2
    assert await stage.scheduled(good) == ["2026-01-01T01:00"]


async def test_a_zone_that_is_gone_pauses(stage: Stage) -> None:
    deployment_id = await stage.make()

    def move(desk: Desk) -> None:
        body = {**desk.get(deployment_id).body, "schedule": {**HOURLY, "timezone": "Mars/Olympus"}}
        changed = update(resources).where(resources.c.id == deployment_id).values(body=body)
        desk.world.tx.execute(changed)

    await stage.act(move)
    stage.clock.advance(HOUR_S + 9 * 60)
    await stage.one.fire_due()
    (run,) = await stage.history(deployment_id)
    assert run["error"]["type"] == "unknown_error"
    assert "Mars/Olympus" in run["error"]["message"]
    shown = await stage.shown(deployment_id)
    assert shown["paused_reason"] == {"type": "error", "error": {"type": "unknown_error"}}


async def test_a_deployment_that_was_purged_leaves_the_queue(stage: Stage) -> None:
    deployment_id = await stage.make()

    def purge(desk: Desk) -> None:
        desk.world.tx.execute(delete(rows).where(rows.c.id == deployment_id))
        desk.world.tx.execute(delete(resources).where(resources.c.id == deployment_id))

    await stage.act(purge)
    stage.clock.advance(2 * HOUR_S)
    assert await stage.one.fire_due() == 1
    assert await stage.act(lambda desk: leases.next_ready_us(desk.world.tx, QUEUE)) is None


async def test_Q16_a_run_by_hand_that_fails_is_a_run_and_pauses_nothing(stage: Stage) -> None:
    deployment_id = await stage.make()
    await stage.act(lambda desk: desk.put_environment_away())
    row = await stage.desk.runs.by_hand(stage.db, stage.desk.world.api, deployment_id)
    assert (row.session_id, row.error_type) == (None, "environment_archived_error")
    assert (await stage.shown(deployment_id))["status"] == "active"
    await stage.act(lambda desk: desk.archive(deployment_id))
    with pytest.raises(InvalidRequest, match="archived"):
        await stage.desk.runs.by_hand(stage.db, stage.desk.world.api, deployment_id)
