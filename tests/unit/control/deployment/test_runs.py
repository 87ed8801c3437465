from unittest.mock import Mock

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from intramuros.control.deployment import present, runs
from intramuros.control.deployment.causes import CannotStart, RunError
from intramuros.control.deployment.runs import Query
from intramuros.control.model.catalogue import shipped_catalogue
from intramuros.control.session import present as session_present
from intramuros.control.store import events
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import InvalidRequest, NotFound
from tests.fakes.deployments import GO, Desk

ERROR = RunError("vault_archived_error", "vault `vlt_1` is archived")
SYSTEM = {"type": "system.message", "content": [{"type": "text", "text": "be brief"}]}


def started(desk: Desk, scheduled_us: int | None = None, **body: object) -> runs.RunRow:
    return desk.runs.start(desk.world.tx, desk.world.api, desk.make(**body), scheduled_us)


def test_R230_R235_a_run_starts_a_session_of_its_deployment(desk: Desk) -> None:
    row = started(desk, initial_events=[GO, SYSTEM])
    assert row.id.startswith("drun_")
    assert present.run(row)["error"] is None
    session = desk.world.sessions.get(desk.world.tx, desk.world.api, row.session_id)
    shown = session_present.session(session, desk.world.now_us)
    assert shown["deployment_id"] == row.deployment_id
    assert shown["status"] == "running"
    assert (shown["title"], shown["metadata"], shown["budget"]) == (None, {}, None)
    log = events.read(desk.world.tx, row.session_id)
    assert [record.type for record in log] == ["user.message", "system.message"]


def test_R230_a_run_that_failed_has_an_error_and_no_session(desk: Desk) -> None:
    row = desk.runs.fail(desk.world.tx, desk.world.api, desk.make(), None, ERROR)
    shown = present.run(row)
    assert shown["session_id"] is None
    assert shown["error"] == {"type": ERROR.type, "message": ERROR.message}
    assert "message" not in str(desk.acts())


def test_R231_what_triggered_it(desk: Desk) -> None:
    assert present.run(started(desk))["trigger_context"] == {"type": "manual"}
    at_us = desk.world.now_us + 1
    assert present.run(started(desk, at_us))["trigger_context"] == {
        "type": "schedule",
        "scheduled_at": "2026-01-01T00:00:00.000001Z",
    }


def test_R230_the_record_never_follows_the_session(desk: Desk) -> None:
    row = started(desk)
    desk.world.run(row.session_id)
    desk.world.sessions.delete(desk.world.tx, desk.world.api, row.session_id)
    assert runs.get(desk.world.tx, desk.world.workspace_id, row.id) == row
    desk.archive(row.deployment_id)
    assert runs.get(desk.world.tx, desk.world.workspace_id, row.id) == row


def test_R230_the_agent_is_the_one_of_that_moment(desk: Desk) -> None:
    made = desk.make()
    first = desk.runs.start(desk.world.tx, desk.world.api, made, None)
    desk.next_version(desk.world.agent_id)
    after = desk.change(made.resource.id, agent=desk.world.agent_id)
    second = desk.runs.start(desk.world.tx, desk.world.api, after, None)
    assert [present.run(row)["agent"]["version"] for row in (first, second)] == [1, 2]
    again = runs.get(desk.world.tx, desk.world.workspace_id, first.id)
    assert again.agent_version == 1


def test_R221_the_database_takes_one_run_for_each_nominal_time(desk: Desk) -> None:
    made = desk.make()
    assert not runs.ran(desk.world.tx, made.resource.id, 7)
    desk.runs.start(desk.world.tx, desk.world.api, made, 7)
    assert runs.ran(desk.world.tx, made.resource.id, 7)
    with pytest.raises(IntegrityError), desk.world.tx.connection.begin_nested():
        desk.runs.fail(desk.world.tx, desk.world.api, made, 7, ERROR)
    # By hand it may be run as often as anyone likes.
    for _ in range(2):
        desk.runs.start(desk.world.tx, desk.world.api, made, None)


def test_a_refusal_is_a_reason(desk: Desk) -> None:
    made = desk.make()
    desk.put_environment_away()
    with pytest.raises(CannotStart) as refused:
        desk.runs.start(desk.world.tx, desk.world.api, made, None)
    assert refused.value.error.type == "environment_archived_error"
    count = select(func.count()).select_from(sessions)
    assert desk.world.tx.scalar(count) == 0


def test_R232_lists_are_filtered(desk: Desk) -> None:
    made, other = desk.make(), desk.make()
    ids = []
    for n, deployment in enumerate((made, made, other, made)):
        desk.world.clock.advance(1)
        row = (
            desk.runs.fail(desk.world.tx, desk.world.api, deployment, n, ERROR)
            if n == 1
            else desk.runs.start(desk.world.tx, desk.world.api, deployment, n if n < 3 else None)
        )
        ids.append(row.id)

    def found(limit: int = 10, **query: object) -> list[int]:
        rows, _ = runs.find(desk.world.tx, desk.world.workspace_id, Query(limit, **query))
        return [ids.index(row.id) for row in rows]

    assert found() == [3, 2, 1, 0]
    assert found(deployment_id=made.resource.id) == [3, 1, 0]
    assert found(deployment_id="depl_none") == []
    assert found(has_error=True) == [1]
    assert found(has_error=False) == [3, 2, 0]
    assert found(trigger_type="manual") == [3]
    assert found(trigger_type="schedule") == [2, 1, 0]
    at_us = runs.get(desk.world.tx, desk.world.workspace_id, ids[2]).created_us
    assert found(from_us=at_us) == [3, 2]
    assert found(until_us=at_us) == [1, 0]
    assert found(limit=2) == [3, 2]
    assert found(after=(at_us, ids[2])) == [1, 0]
    assert runs.find(desk.world.tx, "wrkspc_other", Query(10)) == ([], False)
    with pytest.raises(NotFound):
        runs.get(desk.world.tx, "wrkspc_other", ids[0])


CAP = {"type": "limit", "max_list_cost": {"amount": "2000", "currency": "USD"}}


def test_R229_the_budget_is_copied_to_each_session(desk: Desk) -> None:
    made = desk.make(agent=desk.agent(model="claude-opus-4-6"), budget=CAP)
    first = desk.runs.start(desk.world.tx, desk.world.api, made, None)
    cleared = desk.change(made.resource.id, budget=None)
    second = desk.runs.start(desk.world.tx, desk.world.api, cleared, None)
    shown = [
        session_present.session(
            desk.world.sessions.get(desk.world.tx, desk.world.api, run.session_id),
            desk.world.now_us,
        )["budget"]
        for run in (first, second)
    ]
    assert shown == [CAP, None]


def test_R229_the_whole_rosters_prices_are_looked_at_again_at_every_run(desk: Desk) -> None:
    helper = desk.agent(name="Helper", model="claude-sonnet-4-6")
    roster = {"type": "coordinator", "agents": [helper]}
    made = desk.make(agent=desk.agent(model="claude-opus-4-6", multiagent=roster), budget=CAP)
    run = desk.runs.start(desk.world.tx, desk.world.api, made, None)
    row = desk.world.sessions.get(desk.world.tx, desk.world.api, run.session_id)
    assert session_present.session(row, desk.world.now_us)["budget"] == CAP
    known = shipped_catalogue()
    for unpriced in ("claude-sonnet-4-6", "claude-opus-4-6"):
        later = Mock(wraps=known)
        later.price.side_effect = lambda model, speed, no=unpriced: (
            None if model == no else known.price(model, speed)
        )
        desk.world.sessions._models = later
        with pytest.raises(CannotStart) as refused:
            desk.runs.start(desk.world.tx, desk.world.api, made, None)
        assert refused.value.error.type == "session_creation_rejected_error"
        assert unpriced in refused.value.error.message
        assert "model_not_budgetable" in refused.value.error.message


def test_a_roster_without_prices_has_no_budget(desk: Desk) -> None:
    helper = desk.agent(name="Helper", model="scripted/unpriced")
    roster = {"type": "coordinator", "agents": [helper]}
    boss = desk.agent(model="claude-opus-4-6", multiagent=roster)
    with pytest.raises(InvalidRequest, match="scripted/unpriced"):
        desk.make(agent=boss, budget=CAP)
    desk.make(agent=boss)
