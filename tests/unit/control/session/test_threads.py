from dataclasses import replace
from functools import reduce

import pytest
from sqlalchemy import update

from intramuros.control.catalog import agents
from intramuros.control.identity.actor import Actor
from intramuros.control.session import present, threads
from intramuros.control.session.fold import fold
from intramuros.control.session.state import initial, load
from intramuros.control.store import events
from intramuros.control.store.records import Draft
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.protocol.resources.agents import AgentCreate
from intramuros.protocol.resources.sessions import SessionUpdate
from tests.fakes.world import World

CHILD = "sthr_child"
OTHER = "sthr_other"


def led(world: World, **more: object) -> str:
    """A session that may have several threads."""
    actor = Actor(world.clock, world.ids, world.workspace_id, "t")

    def make(name: str, **body: object) -> str:
        given = {"name": name, "model": "m", **body}
        return agents.create(world.tx, actor, AgentCreate.model_validate(given)).id

    roster = [make("scout"), {"type": "self"}]
    lead = make("lead", multiagent={"type": "coordinator", "agents": roster}, **more)
    return world.create(agent=lead)


def created(thread_id: str = CHILD) -> Draft:
    body = {"session_thread_id": thread_id, "agent_name": "scout", "workflow_run_id": None}
    agent = {"type": "agent", "name": "scout", "model": {"id": "m"}}
    return Draft("session.thread_created", body, private={"agent": agent})


def status(what: str, thread_id: str = CHILD, **more: object) -> Draft:
    body = {"session_thread_id": thread_id, "agent_name": "scout", **more}
    return Draft(f"session.thread_status_{what}", body, thread_id=thread_id, shared=True)


IDLE = {"stop_reason": {"type": "end_turn"}, "stop_details": None}


def test_rows_follow_the_log(world: World) -> None:
    session_id = led(world)
    world.loop(session_id, created())
    row = threads.get(world.tx, session_id, CHILD)
    assert (row.status, row.agent["name"]) == ("idle", "scout")
    world.loop(session_id, Draft("session.status_running"), status("running"))
    row = threads.get(world.tx, session_id, CHILD)
    assert (row.status, load(row.state).thread_announced) == ("running", True)
    world.loop(session_id, status("idle", **IDLE), status("terminated"))
    row = threads.get(world.tx, session_id, CHILD)
    assert row.status == "terminated"
    assert load(row.state).active_us > 0
    state = world.journal.hold(world.tx, session_id).state
    assert state.crew is not None
    assert state.crew.members == ()


def test_pages_go_by_age_and_status(world: World) -> None:
    session_id = led(world)
    ids = [f"sthr_{n}" for n in range(5)]
    world.loop(session_id, *map(created, ids))
    world.loop(session_id, status("terminated", ids[2]))
    found, more = threads.find(world.tx, session_id, limit=2)
    assert ([row.id for row in found], more) == (ids[:2], True)
    after = (found[-1].created_us, found[-1].id)
    found, more = threads.find(world.tx, session_id, limit=5, after=after)
    assert ([row.id for row in found], more) == (ids[2:], False)
    found, _ = threads.find(world.tx, session_id, statuses=["terminated"], limit=5)
    assert [row.id for row in found] == [ids[2]]
    with pytest.raises(NotFound):
        threads.get(world.tx, "sesn_other", ids[0])


@pytest.mark.rule("c19_6", "c19_7")
def test_a_thread_is_archived_when_it_rests(world: World) -> None:
    session_id = led(world)
    world.loop(session_id, created(), created(OTHER))
    world.loop(session_id, Draft("session.status_running"), status("running"))
    with pytest.raises(Conflict, match=r"user\.interrupt"):
        world.sessions.archive_thread(world.tx, world.api, session_id, CHILD)
    row = world.sessions.archive_thread(world.tx, world.api, session_id, OTHER)
    assert (row.status, row.archived_us is None) == ("terminated", False)
    again = world.sessions.archive_thread(world.tx, world.api, session_id, OTHER)
    assert again.archived_us == row.archived_us
    # One that waits for an answer rests too; its calls can get none any more.
    start = Draft("span.model_request_start", id="sevt_s", thread_id=CHILD, private={"epoch": 1})
    use = Draft("agent.custom_tool_use", {"name": "x", "input": {}}, "sevt_u", CHILD, shared=True)
    usage = dict.fromkeys(
        ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"),
        0,
    )
    end = {"model_request_start_id": "sevt_s", "model_usage": usage}
    asks = {"type": "requires_action", "event_ids": ["sevt_u"]}
    world.loop(
        session_id,
        start,
        use,
        Draft("span.model_request_end", end, thread_id=CHILD),
        status("idle", stop_reason=asks, stop_details=None),
    )
    world.sessions.archive_thread(world.tx, world.api, session_id, CHILD)
    answer = {"type": "user.custom_tool_result", "custom_tool_use_id": "sevt_u"}
    with pytest.raises(InvalidRequest):
        world.send(session_id, answer)
    assert world.journal.hold(world.tx, session_id).state.due, "the session must say so"


def test_a_follow_up_that_waits_keeps_a_thread_from_being_archived(world: World) -> None:
    session_id = led(world)
    told = {"from_session_thread_id": "x", "content": []}
    waiting = Draft("agent.thread_message_received", told, thread_id=CHILD, queued=True)
    world.loop(session_id, created(), waiting)
    with pytest.raises(Conflict):
        world.sessions.archive_thread(world.tx, world.api, session_id, CHILD)


@pytest.mark.rule("c13_20")
def test_the_end_of_a_session_ends_every_thread(world: World) -> None:
    session_id = led(world)
    world.loop(session_id, created(), created(OTHER))
    world.sessions.archive(world.tx, world.api, session_id)
    found, _ = threads.find(world.tx, session_id, limit=5)
    assert [row.status for row in found] == ["terminated"] * 2
    with pytest.raises(InvalidRequest, match="terminated"):
        world.say(session_id)


@pytest.mark.rule("c19_12")
def test_what_changes_for_the_coordinator_changes_for_its_copies_alone(world: World) -> None:
    session_id = led(world)
    tool = {"type": "custom", "name": "t", "description": "d", "input_schema": {"type": "object"}}
    request = SessionUpdate.model_validate({"agent": {"tools": [tool]}})
    row = world.sessions.update(world.tx, world.api, session_id, request)
    scout, copy = row.agent["multiagent"]["agents"]
    assert [t["name"] for t in copy["tools"]] == ["t"]
    assert scout["tools"] == []
    assert replace(world.journal.hold(world.tx, session_id).state, crew=None).last_seq == 1


def seconds(world: World, session_id: str) -> tuple[float, float]:
    """What a session and its usage show as active seconds."""
    shown = present.session(world.sessions.get(world.tx, world.api, session_id), world.now_us)
    asked = present.session(world.sessions.look(world.tx, world.api, session_id), world.now_us)
    assert (asked["stats"], asked["usage"]) == (shown["stats"], shown["usage"])
    parts = (shown["stats"]["active_seconds"], shown["usage"]["active_seconds"])
    return round(parts[0], 3), round(parts[1], 3)


def test_c10_27_the_time_of_threads_at_work_side_by_side_is_summed(world: World) -> None:
    session_id = led(world)
    primary = world.journal.hold(world.tx, session_id).state.thread_id
    lead = {"session_thread_id": primary, "agent_name": "lead"}
    world.loop(session_id, created(), created(OTHER))
    world.loop(
        session_id,
        Draft("session.status_running"),
        Draft("session.thread_status_running", lead),
        status("running"),
        status("running", OTHER),
    )
    world.clock.advance(10)
    assert seconds(world, session_id) == (30, 10), "three at once"
    world.loop(session_id, Draft("session.thread_status_idle", {**lead, **IDLE}))
    world.clock.advance(5)
    assert seconds(world, session_id) == (40, 15), "two at once"
    # One that leaves has worked all the same.
    world.loop(session_id, status("idle", **IDLE), status("terminated"))
    assert seconds(world, session_id) == (40, 15)
    world.clock.advance(1)
    world.loop(
        session_id,
        status("idle", OTHER, **IDLE),
        Draft("session.status_idle", IDLE),
    )
    world.clock.advance(100)
    assert seconds(world, session_id) == (41, 16)
    shown = [present.thread(world.sessions.get(world.tx, world.api, session_id), world.now_us)]
    rows, _ = threads.find(world.tx, session_id, limit=5)
    shown += [present.child(row, session_id, primary, world.now_us) for row in rows]
    total = sum(each["stats"]["active_seconds"] for each in shown)
    whole = present.session(world.sessions.get(world.tx, world.api, session_id), world.now_us)
    assert whole["stats"]["active_seconds"] == pytest.approx(total, abs=1e-9)
    world.sessions.archive(world.tx, world.api, session_id)
    assert seconds(world, session_id) == (41, 16)


def test_a_state_of_an_earlier_release_recalls_the_threads_that_left(world: World) -> None:
    session_id = led(world)
    world.loop(session_id, created(), created(OTHER), Draft("session.status_running"))
    world.loop(session_id, status("running"), status("running", OTHER))
    world.clock.advance(7)
    world.loop(session_id, status("idle", **IDLE), status("terminated"))
    new = world.journal.hold(world.tx, session_id).state
    dumped = new.dump()
    del dumped["crew"]["departed_us"]  # type: ignore[attr-defined]  # a dict, as dump says
    ours = sessions.c.id == session_id
    world.tx.execute(update(sessions).where(ours).values(state=dumped))
    assert load(dumped) != new
    # It is shown with what it knows, and exact as soon as something is written.
    assert seconds(world, session_id) == (7, 7)
    assert world.journal.hold(world.tx, session_id).state == new
    world.loop(session_id, status("idle", OTHER, **IDLE), Draft("session.status_idle", IDLE))
    assert seconds(world, session_id) == (14, 7)
    row = world.sessions.get(world.tx, world.api, session_id)
    empty = initial(new.thread_id, self_hosted=new.self_hosted, crewed=True)
    assert reduce(fold, events.read(world.tx, session_id), empty).dump() == row.state
