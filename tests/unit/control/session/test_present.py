from dataclasses import replace

from intramuros.control.session import present
from intramuros.control.store.records import Draft
from intramuros.protocol.resources.sessions import Session, Thread
from intramuros.protocol.resources.work import Work, WorkHeartbeat
from intramuros.protocol.work import Item, WorkState
from tests.fakes.world import World


def row(world: World, session_id: str):
    return world.sessions.get(world.tx, world.api, session_id)


def test_a_session_is_shown_whole(world: World) -> None:
    session_id = world.create(title="T", metadata={"a": "1"})
    shown = present.session(row(world, session_id), world.now_us)
    assert set(shown) == set(Session.model_fields)
    Session.model_validate(shown)
    assert shown["created_at"] == "2026-01-01T00:00:00.000000Z"
    assert shown["archived_at"] is None


def test_times_run_and_freeze(world: World) -> None:
    session_id = world.create()
    world.say(session_id)
    world.loop(session_id, Draft("session.status_running"))
    world.clock.advance(3)
    shown = present.session(row(world, session_id), world.now_us)
    assert round(shown["stats"]["active_seconds"], 3) == 3
    assert round(shown["stats"]["duration_seconds"], 3) == 3
    assert shown["usage"]["active_seconds"] == shown["stats"]["active_seconds"]
    world.loop(session_id, Draft("session.status_terminated"))
    world.clock.advance(100)
    shown = present.session(row(world, session_id), world.now_us)
    assert round(shown["stats"]["duration_seconds"], 3) == 3
    assert round(shown["stats"]["active_seconds"], 3) == 3


def test_19_4_a_thread_has_no_figures_before_it_has_lived(world: World) -> None:
    session_id = world.create()
    shown = present.thread(row(world, session_id), world.now_us)
    assert set(shown) == set(Thread.model_fields)
    Thread.model_validate(shown)
    assert (shown["stats"], shown["usage"]) == (None, None)
    assert "multiagent" not in shown["agent"]
    world.say(session_id)
    world.run(session_id)
    shown = present.thread(row(world, session_id), world.now_us)
    Thread.model_validate(shown)
    assert shown["stats"]["startup_seconds"] == 0
    assert shown["usage"]["input_tokens"] == 0


def test_9_8_only_a_poll_shows_the_secret() -> None:
    item = Item("work_1", "env_1", "sesn_1", 1)
    shown = present.work(item)
    assert set(shown) == set(Work.model_fields)
    Work.model_validate(shown)
    assert shown["secret"] is None
    assert present.work(item, "s")["secret"] == "s"
    later = replace(
        item,
        state=WorkState.STOPPED,
        acknowledged_us=1_000_000,
        started_us=2_000_000,
        heartbeat="text",
        stop_requested_us=3_000_000,
        stopped_us=4_000_000,
    )
    shown = present.work(later)
    Work.model_validate(shown)
    assert shown["stopped_at"] == "1970-01-01T00:00:04.000000Z"
    assert shown["latest_heartbeat_at"] == "text"


def test_9_25_a_heartbeat_without_one_shows_an_empty_text() -> None:
    item = Item("work_1", "env_1", "sesn_1", 1, state=WorkState.STOPPING)
    shown = present.heartbeat(item, extended=False)
    WorkHeartbeat.model_validate(shown)
    assert (shown["last_heartbeat"], shown["lease_extended"]) == ("", False)
