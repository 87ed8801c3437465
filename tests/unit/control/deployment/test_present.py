from sqlalchemy import update

from intramuros.control.store.tables import resources
from tests.fakes.deployments import HOURLY, Desk


def test_a_deployment_as_shown(desk: Desk) -> None:
    shown = desk.shown(desk.make(schedule=HOURLY, metadata={"a": "1"}).resource.id)
    assert shown["id"].startswith("depl_")
    assert shown["type"] == "deployment"
    assert shown["agent"] == {"type": "agent", "id": desk.world.agent_id, "version": 1}
    assert shown["schedule"]["last_run_at"] is None
    assert {**shown["schedule"], **HOURLY} == shown["schedule"]
    # Absent rather than null, unlike everything else (the SDK's types).
    assert "budget" not in shown
    assert [name for name, value in shown.items() if value is None] == [
        "description",
        "paused_reason",
        "archived_at",
    ]


def test_a_zone_that_this_machine_does_not_know_is_no_failure(desk: Desk) -> None:
    made = desk.make(schedule=HOURLY)
    body = {**made.body, "schedule": {**HOURLY, "timezone": "Mars/Olympus"}}
    desk.world.tx.execute(
        update(resources).where(resources.c.id == made.resource.id).values(body=body)
    )
    shown = desk.shown(made.resource.id)["schedule"]
    assert (shown["timezone"], shown["upcoming_runs_at"]) == ("Mars/Olympus", [])
