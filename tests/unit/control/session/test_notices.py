from types import SimpleNamespace
from typing import Any

import pytest

from intramuros.control.session import notices
from intramuros.control.store import events
from intramuros.control.store.db import Tx
from intramuros.control.store.events import End, Stamp
from intramuros.control.store.notify import WEBHOOK_TOPIC
from intramuros.control.store.records import Draft, primary_thread_id
from intramuros.protocol.resources.sessions import SessionUpdate
from intramuros.protocol.webhooks import LEGACY_KINDS, WORKSPACE_KINDS
from tests.fakes.outbox import listen, told, waiting
from tests.fakes.world import World, use


@pytest.fixture(autouse=True)
def _somebody_listens(tx: Tx) -> None:
    listen(tx, *(kind for kind in WORKSPACE_KINDS if kind.startswith("session.")))


class Log:
    """A session's log that nothing judges, passed on row by row as the journal does."""

    def __init__(self, world: World, multiagent: object = None, kind: str = "cloud") -> None:
        self._world, self._kind = world, kind
        self._row = world.sessions.get(world.tx, world.api, world.create("cloud"))
        self.id, self.seq = str(self._row.id), 0
        self.primary = primary_thread_id(self.id)
        self._agent = {**self._row.agent, "multiagent": multiagent}

    def write(self, *drafts: Draft) -> bool:
        tx, world = self._world.tx, self._world
        stamp = Stamp(world.now_us, lambda: world.ids.new("sevt"))
        written = events.place(self.id, End(self.seq, world.now_us), drafts, stamp)
        events.insert_all(tx, written)
        self.seq = written[-1].seq
        session: Any = SimpleNamespace(
            id=self.id,
            workspace_id=self._row.workspace_id,
            agent=self._agent,
            environment_kind=self._kind,
        )
        return notices.pass_on(tx, world.clock, session, written)


def idle(reason: str) -> Draft:
    return Draft("session.status_idle", {"stop_reason": {"type": reason}})


def of_thread(type: str, thread_id: str) -> Draft:
    return Draft(type, {"session_thread_id": thread_id, "agent_name": "A"})


def test_what_a_dream_is_asked_by_its_session_is_told_to_nobody(world: World) -> None:
    dream = Log(world, kind="dream")
    dream.write(idle("requires_action"))
    assert told(world.tx) == []
    dream.write(idle("end_turn"))
    assert told(world.tx) == ["session.status_idled"]


def test_c26_3_a_turn_is_told_under_the_names_of_webhooks(world: World) -> None:
    session_id = world.create("cloud")
    world.say(session_id)
    assert told(world.tx) == []
    world.run(session_id)
    assert told(world.tx) == ["session.status_idled", "session.status_run_started"]
    assert waiting(world.tx)[0] == {
        "type": waiting(world.tx)[0]["type"],
        "id": session_id,
        "workspace_id": world.workspace_id,
    }


def test_c26_3_every_transition_to_running_is_told(world: World) -> None:
    session_id = world.create("cloud")
    for _ in range(2):
        world.say(session_id)
        world.run(session_id)
    assert told(world.tx).count("session.status_run_started") == 2


def test_a_session_that_waits_for_an_answer_idles(world: World) -> None:
    session_id = world.create("cloud")
    world.say(session_id)
    world.run(session_id, use("ask"))
    assert told(world.tx) == ["session.status_idled", "session.status_run_started"]


def test_R260_changes_and_ends_are_told(world: World) -> None:
    session_id = world.create("cloud")
    for _ in range(2):
        body = SessionUpdate.model_validate({"title": "t"})
        world.sessions.update(world.tx, world.api, session_id, body)
    assert told(world.tx) == ["session.updated"]
    for _ in range(2):
        world.sessions.archive(world.tx, world.api, session_id)
    assert told(world.tx) == ["session.status_terminated", "session.updated"]
    world.sessions.delete(world.tx, world.api, session_id)
    assert "session.deleted" in told(world.tx)
    assert {data["id"] for data in waiting(world.tx)} == {session_id}


def test_R260_a_retry_is_told(world: World) -> None:
    log = Log(world)
    assert log.write(Draft("session.status_rescheduled", private={"retry_at_us": 1}))
    assert told(world.tx) == ["session.status_rescheduled"]


def test_R262_the_older_names_are_never_told(world: World) -> None:
    session_id = world.create("cloud")
    world.say(session_id)
    world.run(session_id, use("ask"))
    world.sessions.archive(world.tx, world.api, session_id)
    world.sessions.delete(world.tx, world.api, session_id)
    assert not set(told(world.tx)) & LEGACY_KINDS


def test_an_input_that_waits_is_no_news_and_a_mark_is_none(world: World) -> None:
    log = Log(world)
    assert not log.write(Draft("user.message", {"content": []}, queued=True))
    assert not log.write(Draft("internal.mcp_tools"), Draft("agent.message", {"content": []}))


def test_R261_threads_are_named_and_only_children_terminate(world: World) -> None:
    log = Log(world, multiagent={"type": "coordinator"})
    for name in ("session.thread_status_idle", "session.thread_status_terminated"):
        log.write(of_thread(name, log.primary))
    assert told(world.tx) == ["session.thread_idled"]
    log.write(of_thread("session.thread_created", "sthr_child"))
    log.write(of_thread("session.thread_status_idle", "sthr_child"))
    log.write(of_thread("session.thread_status_terminated", "sthr_child"))
    of_child = [d for d in waiting(world.tx) if d["session_thread_id"] == "sthr_child"]
    assert sorted(data["type"] for data in of_child) == [
        "session.thread_created",
        "session.thread_idled",
        "session.thread_terminated",
    ]
    assert {data["id"] for data in of_child} == {log.id}


def test_an_agent_that_is_alone_has_no_threads_to_speak_of(world: World) -> None:
    log = Log(world)
    assert not log.write(of_thread("session.thread_status_idle", log.primary))


def test_a_thread_that_the_log_shows_twice_is_told_once(world: World) -> None:
    log = Log(world)
    row = of_thread("session.thread_status_idle", "sthr_child")
    log.write(row, Draft(row.type, row.body, thread_id="sthr_child"))
    assert told(world.tx) == ["session.thread_idled"]


def test_R260_each_iteration_of_an_outcome_is_told(world: World) -> None:
    log = Log(world)
    for iteration in range(2):
        log.write(Draft("span.outcome_evaluation_end", {"iteration": iteration}))
    assert told(world.tx) == ["session.outcome_evaluation_ended"] * 2


def test_R266_a_budget_is_reached_once_for_each_value_of_it(world: World) -> None:
    log = Log(world)
    reached = "session.budget_reached"
    log.write(idle("end_turn"))
    for _ in range(3):
        log.write(idle("budget_reached"))
        log.write(Draft("session.updated", {"title": "t"}))
        assert told(world.tx).count(reached) == 1
    for raised in (2, 3):
        log.write(Draft("session.updated", {"budget": {"type": "limit"}}))
        log.write(idle("budget_reached"), idle("budget_reached"))
        assert told(world.tx).count(reached) == raised


async def test_whoever_delivers_is_woken_when_there_is_something(world: World) -> None:
    session_id = world.create("cloud")
    with world.hub.subscribe(WEBHOOK_TOPIC) as hints:
        world.say(session_id)
        world.commit()
        assert not await hints.wait(0)
        world.run(session_id)
        world.commit()
        assert await hints.wait(0)


pytestmark = pytest.mark.anyio
