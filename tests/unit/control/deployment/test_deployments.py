import pytest
from sqlalchemy import insert, select

from intramuros.control.catalog.kinds import AGENT
from intramuros.control.deployment import deployments
from intramuros.control.deployment.deployments import QUEUE, Query
from intramuros.control.store import leases
from intramuros.control.store.deployment_tables import deployments as rows
from intramuros.control.store.tables import leases as queue
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339
from tests.fakes.deployments import GO, HOURLY, Desk, schedule

HOUR_US = 3_600_000_000


def waiting_us(desk: Desk, deployment_id: str) -> int | None:
    """Return when the queue wakes a scheduler for the deployment."""
    wanted = (queue.c.queue == QUEUE, queue.c.key == deployment_id, queue.c.state == "ready")
    at_us: int | None = desk.world.tx.scalar(select(queue.c.available_us).where(*wanted))
    return at_us


def test_a_schedule_points_at_its_next_time_and_waits_for_it(desk: Desk) -> None:
    made = desk.make(schedule=HOURLY)
    assert made.next_us == desk.world.now_us + HOUR_US
    fire = made.timetable().first(desk.world.now_us)
    assert waiting_us(desk, made.resource.id) == fire.at_us > made.next_us
    plain = desk.make()
    assert (plain.next_us, waiting_us(desk, plain.resource.id)) == (None, None)


def test_R212_what_is_sent_replaces_and_what_is_not_stays(desk: Desk) -> None:
    made = desk.make(schedule=HOURLY, description="d", metadata={"a": "1", "b": "2"})
    changed = desk.change(made.resource.id, initial_events=[GO, GO], metadata={"a": None, "c": "3"})
    assert changed.body == {
        **made.body,
        "initial_events": changed.body["initial_events"],
        "metadata": {"b": "2", "c": "3"},
    }
    assert len(changed.body["initial_events"]) == 2
    assert changed.next_us == made.next_us
    assert desk.change(made.resource.id).resource.updated_us == changed.resource.updated_us


@pytest.mark.parametrize("field", ["name", "agent", "environment_id", "initial_events"])
def test_R213_four_members_cannot_be_cleared(desk: Desk, field: str) -> None:
    made = desk.make()
    with pytest.raises(ValueError, match=f"{field}\n.*cannot be cleared"):
        desk.change(made.resource.id, **{field: None})
    for empty in ("", []):
        with pytest.raises(ValueError, match=field):
            desk.change(made.resource.id, **{field: empty})


def test_R213_the_others_can(desk: Desk) -> None:
    made = desk.make(schedule=HOURLY, description="d")
    cleared = desk.change(
        made.resource.id, description="", resources=[], vault_ids=[], schedule=None, budget=None
    )
    assert [cleared.body[name] for name in ("description", "schedule", "budget")] == [None] * 3
    assert cleared.next_us is None
    cleared = desk.change(made.resource.id, description=None, resources=None, vault_ids=None)
    assert [cleared.body[name] for name in ("resources", "vault_ids")] == [[], []]


def test_another_schedule_starts_with_its_next_time(desk: Desk) -> None:
    made = desk.make(schedule=HOURLY)
    later = desk.change(made.resource.id, schedule=schedule("0 0 * * *"))
    assert later.next_us == made.next_us + 23 * HOUR_US
    # The queue wakes a scheduler in between, which looks at the row.
    assert waiting_us(desk, made.resource.id) < later.next_us
    sooner = desk.change(made.resource.id, schedule=schedule("*/5 * * * *"))
    assert sooner.next_us == made.next_us - 55 * HOUR_US // 60


def test_R209_R210_an_archived_deployment_is_active_whatever_it_was(desk: Desk) -> None:
    made = desk.make(schedule=HOURLY)
    deployment_id = made.resource.id
    assert [desk.shown(deployment_id)[n] for n in ("status", "paused_reason")] == ["active", None]
    desk.pause(deployment_id)
    shown = desk.shown(deployment_id)
    assert (shown["status"], shown["paused_reason"]) == ("paused", {"type": "manual"})
    desk.archive(deployment_id)
    shown = desk.shown(deployment_id)
    assert (shown["status"], shown["paused_reason"]) == ("active", None)
    assert shown["archived_at"] is not None


def test_R217_upcoming_runs(desk: Desk) -> None:
    deployment_id = desk.make(schedule=HOURLY).resource.id
    hours = [rfc3339(from_micros(desk.world.now_us + n * HOUR_US)) for n in range(1, 6)]
    assert desk.shown(deployment_id)["schedule"]["upcoming_runs_at"] == hours
    desk.pause(deployment_id)
    assert desk.shown(deployment_id)["schedule"]["upcoming_runs_at"] == hours
    desk.archive(deployment_id)
    assert desk.shown(deployment_id)["schedule"]["upcoming_runs_at"] == []


def test_R222_R223_pause_takes_the_next_time_away_and_unpause_gives_a_later_one(
    desk: Desk,
) -> None:
    deployment_id = desk.make(schedule=HOURLY).resource.id
    assert desk.pause(deployment_id).next_us is None
    desk.world.clock.advance(5 * 3600)
    going = desk.unpause(deployment_id)
    assert (going.next_us, going.body["paused_reason"]) == (desk.world.now_us + HOUR_US, None)


def test_Q19_repeats_change_nothing(desk: Desk) -> None:
    deployment_id = desk.make(schedule=HOURLY).resource.id
    for act in (desk.pause, desk.unpause, desk.archive):
        first = act(deployment_id)
        desk.world.clock.advance(60)
        assert act(deployment_id) == first
    assert desk.acts()[-4:] == [
        "deployment.create",
        "deployment.pause",
        "deployment.unpause",
        "deployment.archive",
    ]


def test_R223_archiving_is_final(desk: Desk) -> None:
    deployment_id = desk.make(schedule=HOURLY).resource.id
    desk.archive(deployment_id)
    assert waiting_us(desk, deployment_id) is None
    for act in (desk.pause, desk.unpause, lambda one: desk.change(one, name="x")):
        with pytest.raises(InvalidRequest, match="archived"):
            act(deployment_id)


def test_R220_an_organization_has_a_thousand_schedules(desk: Desk) -> None:
    made = desk.make(schedule=HOURLY)
    plain = desk.make()
    template = dict(desk.world.tx.execute(select(rows).limit(1)).one()._mapping)
    resource = deployments.resources
    body = desk.world.tx.execute(select(resource).where(resource.c.id == made.resource.id)).one()
    for n in range(deployments.MAX_SCHEDULED - 1):
        copy = {"id": f"depl_{n}"}
        desk.world.tx.execute(insert(resource).values({**body._mapping, **copy}))
        desk.world.tx.execute(insert(rows).values({**template, **copy, "scheduled": True}))
    with pytest.raises(InvalidRequest, match="at most 1000 scheduled"):
        desk.make(schedule=HOURLY)
    with pytest.raises(InvalidRequest, match="at most 1000 scheduled"):
        desk.change(plain.resource.id, schedule=HOURLY)
    # A schedule that is there may change, and what has none does not count.
    desk.change(made.resource.id, schedule=schedule("1 * * * *"))
    desk.make()
    desk.archive("depl_0")
    desk.change("depl_1", schedule=None)
    desk.change(plain.resource.id, schedule=HOURLY)
    desk.make(schedule=HOURLY)
    with pytest.raises(InvalidRequest, match="at most 1000 scheduled"):
        desk.make(schedule=HOURLY)


def test_R224_what_runs_an_agent_goes_with_it(desk: Desk) -> None:
    other = desk.agent()
    gone = [desk.make(schedule=HOURLY).resource.id, desk.make().resource.id]
    kept = desk.make(agent=other).resource.id
    moved = desk.make().resource.id
    desk.change(moved, agent=other)
    deployments.archive_of_agent(desk.world.tx, desk.actor, desk.world.agent_id)
    assert all(desk.get(one).resource.archived_us for one in gone)
    assert not any(desk.get(one).resource.archived_us for one in (kept, moved))
    assert [desk.history(one) for one in gone] == [[], []]


def test_lists_are_newest_first_and_filtered(desk: Desk) -> None:
    ids = []
    for _ in range(4):
        ids.append(desk.make().resource.id)
        desk.world.clock.advance(1)
    other = desk.make(agent=desk.agent()).resource.id
    desk.pause(ids[0])
    desk.archive(ids[1])

    def found(**query: object) -> list[str]:
        page = deployments.find(desk.world.tx, desk.world.workspace_id, Query(10, **query))
        return [one.resource.id for one in page[0]]

    assert found() == [other, ids[3], ids[2], ids[0]]
    assert found(include_archived=True) == [other, *reversed(ids)]
    assert found(status="paused") == [ids[0]]
    assert found(status="active") == [other, ids[3], ids[2]]
    assert found(agent_id=desk.world.agent_id) == [ids[3], ids[2], ids[0]]
    assert found(agent_id="agent_none") == []
    at_us = desk.get(ids[2]).resource.created_us
    assert found(created_gte_us=at_us) == [other, ids[3], ids[2]]
    assert found(created_lte_us=at_us) == [ids[2], ids[0]]
    first, more = deployments.find(desk.world.tx, desk.world.workspace_id, Query(2))
    last = first[-1].resource
    assert more
    assert found(after=(last.created_us, last.id)) == [ids[2], ids[0]]


def test_another_workspace_sees_nothing(desk: Desk) -> None:
    deployment_id = desk.make().resource.id
    with pytest.raises(NotFound):
        deployments.get(desk.world.tx, "wrkspc_other", deployment_id)
    assert deployments.find(desk.world.tx, "wrkspc_other", Query(10)) == ([], False)
    with pytest.raises(NotFound):
        deployments.get(desk.world.tx, desk.world.workspace_id, desk.world.agent_id)
    assert AGENT.name != "deployment"


def test_a_held_fire_that_is_changed_comes_back(desk: Desk) -> None:
    """The wish to be woken is kept while a scheduler holds the deployment."""
    made = desk.make(schedule=HOURLY)
    desk.world.clock.advance(2 * 3600)
    lease = leases.claim(desk.world.tx, QUEUE, "x", desk.world.now_us, HOUR_US)
    assert lease is not None
    desk.change(made.resource.id, schedule=schedule("*/5 * * * *"))
    assert leases.finish(desk.world.tx, lease, desk.world.now_us)
    assert waiting_us(desk, made.resource.id) == desk.world.now_us
