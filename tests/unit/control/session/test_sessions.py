from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from intramuros.control.catalog import agents, service
from intramuros.control.catalog.kinds import ENVIRONMENT
from intramuros.control.identity.actor import Actor
from intramuros.control.session.listing import Query
from intramuros.control.store import events, leases
from intramuros.control.store.notify import session_topic
from intramuros.control.store.tables import audit
from intramuros.control.store.tables import events as event_rows
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.protocol.resources.sessions import SessionUpdate
from intramuros.protocol.work import WorkState
from tests.fakes.world import World, use

BUDGET = {"type": "limit", "max_list_cost": {"amount": "5", "currency": "USD"}}
TEXT = [{"type": "text", "text": "x"}]


def changed(world: World, session_id: str, **body: object):
    request = SessionUpdate.model_validate(body)
    return world.sessions.update(world.tx, world.api, session_id, request)


def types(world: World, session_id: str) -> list[str]:
    return [record.type for record in events.read(world.tx, session_id)]


def test_10_9_a_new_session_is_idle_and_its_log_is_empty(world: World) -> None:
    session_id = world.create()
    row = world.sessions.get(world.tx, world.api, session_id)
    assert (row.status, row.environment_kind) == ("idle", "self_hosted")
    assert events.read(world.tx, session_id) == []
    assert [item.state for item in world.items(session_id)] == [WorkState.QUEUED]
    assert leases.claim(world.tx, leases.TURNS, "x", world.now_us, 1) is None


def test_10_10_initial_events_start_the_session(world: World) -> None:
    session_id = world.create(initial_events=[{"type": "user.message", "content": TEXT}] * 2)
    assert world.sessions.get(world.tx, world.api, session_id).status == "running"
    assert types(world, session_id) == ["user.message"] * 2
    assert len(world.items(session_id)) == 1


def test_10_10_an_empty_list_is_no_list(world: World) -> None:
    session_id = world.create(initial_events=[])
    assert world.sessions.get(world.tx, world.api, session_id).status == "idle"


def test_10_7_the_agent_is_a_snapshot(world: World) -> None:
    session_id = world.create()
    actor = Actor(world.clock, world.ids, world.workspace_id, "t")
    request = agents.AgentUpdate.model_validate({"system": "changed"})
    agents.update(world.tx, actor, world.agent_id, request)
    row = world.sessions.get(world.tx, world.api, session_id)
    assert (row.agent["system"], row.agent_version) == (None, 1)


def test_amb_32_missing_and_archived_parts(world: World) -> None:
    with pytest.raises(NotFound):
        world.create(environment_id="env_none")
    with pytest.raises(NotFound):
        world.create(agent="agent_none")
    actor = Actor(world.clock, world.ids, world.workspace_id, "t")
    cloud = service.get(world.tx, world.workspace_id, ENVIRONMENT, world.environment_ids["cloud"])
    service.archive(world.tx, actor, cloud)
    with pytest.raises(InvalidRequest, match="archived"):
        world.create("cloud")


def test_amb_44_who_sees_a_session(world: World) -> None:
    session_id = world.create()
    other = world.create()
    assert world.sessions.get(world.tx, world.worker, session_id)
    token = replace(world.worker, session_id=session_id)
    assert world.sessions.get(world.tx, token, session_id)
    for stranger, target in (
        (token, other),
        (replace(world.worker, environment_id="env_other"), session_id),
        (replace(world.api, workspace_id="wrkspc_other"), session_id),
    ):
        with pytest.raises(NotFound):
            world.sessions.get(world.tx, stranger, target)


def test_10_19_an_update_tells_what_changed(world: World) -> None:
    session_id = world.create(title="old", metadata={"a": "1"})
    row = changed(world, session_id, title="new", metadata={"b": "2", "a": None})
    assert (row.title, row.metadata) == ("new", {"b": "2"})
    told = events.read(world.tx, session_id)[-1]
    assert (told.type, told.body) == (
        "session.updated",
        {"title": "new", "metadata": {"b": "2"}},
    )
    assert row.updated_us == told.at_us


def test_10_19_an_update_that_changes_nothing_tells_nothing(world: World) -> None:
    session_id = world.create(title="same", metadata={"a": "1"})
    changed(world, session_id, title="same", metadata={"a": "1"})
    changed(world, session_id)
    assert types(world, session_id) == []


def test_10_20_cleared_metadata_is_left_out(world: World) -> None:
    session_id = world.create(title="x", metadata={"a": "1"})
    changed(world, session_id, title=None, metadata={"a": None})
    assert events.read(world.tx, session_id)[-1].body == {"title": None}


@pytest.mark.rule("c10_18", "R109")
def test_10_17_tools_are_replaced_while_idle(world: World) -> None:
    session_id = world.create()
    row = changed(world, session_id, agent={"tools": []})
    assert row.agent["tools"] == []
    assert events.read(world.tx, session_id)[-1].body["agent"] == row.agent
    world.say(session_id)
    with pytest.raises(Conflict, match="running"):
        changed(world, session_id, agent={"tools": [{"type": "agent_toolset_20260401"}]})
    assert changed(world, session_id, title="still possible").title == "still possible"


def test_10_16_what_cannot_change(world: World) -> None:
    session_id = world.create()
    with pytest.raises(InvalidRequest, match="vault_ids"):
        changed(world, session_id, vault_ids=[])
    with pytest.raises(InvalidRequest) as caught:
        changed(world, session_id, budget=BUDGET)
    assert caught.value.hints.code == "budget_create_only"
    with pytest.raises(InvalidRequest, match="metadata"):
        changed(world, session_id, metadata={str(n): "x" for n in range(17)})


def test_10_22_archiving_ends_the_session_and_keeps_its_history(world: World) -> None:
    session_id = world.create()
    world.say(session_id)
    world.run(session_id)
    world.serve(session_id)
    row = world.sessions.archive(world.tx, world.api, session_id)
    assert row.status == "terminated"
    assert row.archived_us is not None
    assert types(world, session_id)[-2:] == [
        "session.thread_status_terminated",
        "session.status_terminated",
    ]
    assert [item.state for item in world.items(session_id)] == [WorkState.STOPPING]
    with pytest.raises(InvalidRequest, match="terminated"):
        world.say(session_id)
    with pytest.raises(InvalidRequest, match="archived"):
        changed(world, session_id, title="x")


def test_amb_33_archiving_twice_changes_nothing(world: World) -> None:
    session_id = world.create()
    first = world.sessions.archive(world.tx, world.api, session_id)
    world.clock.advance(5)
    assert world.sessions.archive(world.tx, world.api, session_id) == first
    assert world.items(session_id) == []


def test_10_21_what_runs_is_neither_archived_nor_deleted(world: World) -> None:
    session_id = world.create()
    world.say(session_id)
    for end in (world.sessions.archive, world.sessions.delete):
        with pytest.raises(Conflict) as caught:
            end(world.tx, world.api, session_id)
        assert caught.value.hints.should_retry is False


def test_requires_action_counts_as_idle(world: World) -> None:
    session_id = world.create()
    world.say(session_id)
    world.run(session_id, use())
    assert world.sessions.archive(world.tx, world.api, session_id).status == "terminated"


def test_10_23_deleting_leaves_nothing_but_the_audit(world: World) -> None:
    session_id = world.create()
    world.say(session_id)
    world.run(session_id)
    with world.hub.subscribe(session_topic(session_id)) as stream:
        world.sessions.delete(world.tx, world.api, session_id)
        stream.clear()
        world.commit()
        assert stream._hinted.is_set()
    with pytest.raises(NotFound):
        world.sessions.get(world.tx, world.api, session_id)
    left = select(event_rows).where(event_rows.c.session_id == session_id)
    assert world.tx.execute(left).all() == []
    assert world.items(session_id) == []
    assert "session.delete" in world.tx.execute(select(audit.c.kind)).scalars().all()


def test_an_ended_session_may_be_deleted(world: World) -> None:
    session_id = world.create()
    world.sessions.archive(world.tx, world.api, session_id)
    world.sessions.delete(world.tx, world.api, session_id)


def test_a_worker_that_leaves_a_fresh_call_behind_is_succeeded(world: World) -> None:
    session_id = world.create()
    served = world.serve(session_id)
    world.say(session_id)
    world.clock.advance(1)
    world.run(session_id, use())
    world.sessions.stop_work(world.tx, world.worker, world.environment_id, served.id, force=True)
    (successor,) = world.items(session_id)
    assert successor.state is WorkState.QUEUED
    world.clock.advance(1)
    again = world.serve(session_id)
    world.sessions.stop_work(world.tx, world.worker, world.environment_id, again.id, force=True)
    assert world.items(session_id) == [], "a call is passed on once, or it would go round for ever"


def test_who_is_told_to_stop_is_not_succeeded(world: World) -> None:
    session_id = world.create()
    served = world.serve(session_id)
    world.say(session_id)
    world.clock.advance(1)
    world.run(session_id, use())
    stop = world.sessions.stop_work
    stop(world.tx, world.api, world.environment_id, served.id, force=False)
    stop(world.tx, world.worker, world.environment_id, served.id, force=True)
    assert world.items(session_id) == []


def test_a_worker_may_leave_a_deleted_session(world: World) -> None:
    session_id = world.create()
    served = world.serve(session_id)
    world.sessions.delete(world.tx, world.api, session_id)
    with pytest.raises(Conflict):
        world.sessions.stop_work(
            world.tx, world.worker, world.environment_id, served.id, force=True
        )


def listed(world: World, **query: object) -> list[str]:
    rows, _ = world.sessions.find(world.tx, world.workspace_id, Query(**query))
    return [row.id for row in rows]


def test_4_19_filters(world: World) -> None:
    first = world.create()
    world.clock.advance(1)
    second = world.create()
    world.say(second)
    world.clock.advance(1)
    ended = world.create()
    world.sessions.archive(world.tx, world.api, ended)
    assert listed(world) == [second, first]
    assert listed(world, include_archived=True) == [ended, second, first]
    assert listed(world, statuses=("running",)) == [second]
    assert listed(world, agent_id=world.agent_id, agent_version=1) == [second, first]
    assert listed(world, agent_id=world.agent_id, agent_version=2) == []
    assert listed(world, agent_id="agent_none") == []
    at_us = world.sessions.get(world.tx, world.api, second).created_us
    assert listed(world, from_us=at_us) == [second]
    assert listed(world, until_us=at_us) == [first]
    assert world.sessions.find(world.tx, "wrkspc_other", Query()) == ([], False)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.integers(0, 1), max_size=6), limit=st.integers(1, 3), asc=st.booleans())
def test_pages_join_forwards_and_lead_back(
    world: World, steps: list[int], limit: int, asc: bool
) -> None:
    savepoint = world.tx.connection.begin_nested()
    for step in steps:
        world.clock.advance(step)
        world.create()
    order = "asc" if asc else "desc"
    everything = listed(world, order=order, limit=100)
    pages, after, more = [], None, True
    while more:
        rows, more = world.sessions.find(
            world.tx, world.workspace_id, Query(order=order, limit=limit, after=after)
        )
        pages.append(rows)
        after = (rows[-1].created_us, rows[-1].id) if rows else None
    assert [row.id for page in pages for row in page] == everything
    for before, page in pairwise(pages):
        place = (page[0].created_us, page[0].id)
        query = Query(order=order, limit=limit, after=place, backwards=True)
        back, beyond = world.sessions.find(world.tx, world.workspace_id, query)
        assert [row.id for row in back] == [row.id for row in before]
        assert beyond == (before is not pages[0])
    savepoint.rollback()
