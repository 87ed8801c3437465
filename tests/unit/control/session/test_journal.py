import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Row, select

from intramuros.control.session import journal as journal_module
from intramuros.control.session.fold import fold
from intramuros.control.session.state import initial
from intramuros.control.store import events, leases
from intramuros.control.store.db import Tx
from intramuros.control.store.leases import LostLease
from intramuros.control.store.notify import TURN_TOPIC, session_topic, work_topic
from intramuros.control.store.records import Draft, Record, primary_thread_id
from intramuros.control.store.tables import audit, sessions
from intramuros.kernel.errors import InvalidRequest, NotFound, TooLarge
from intramuros.protocol.work import WorkState
from tests.fakes.world import World, use

TEXT = [{"type": "text", "text": "x"}]


def row(world: World, session_id: str):
    return world.tx.execute(select(sessions).where(sessions.c.id == session_id)).one()


def audited(world: World) -> list[str]:
    return list(world.tx.execute(select(audit.c.kind).order_by(audit.c.seq)).scalars())


def test_every_view_follows_from_the_log(world: World) -> None:
    session_id = world.create()
    world.say(session_id)
    made = world.run(session_id, use(), use("ask"))
    world.send(session_id, {"type": "user.tool_result", "tool_use_id": made[0].id})
    log = events.read(world.tx, session_id)
    assert [record.seq for record in log] == list(range(1, len(log) + 1))
    state = initial(primary_thread_id(session_id), self_hosted=True)
    for record in log:
        state = fold(state, record)
    stored = row(world, session_id)
    assert stored.state == json.loads(json.dumps(state.dump()))
    assert (stored.last_seq, stored.updated_us) == (log[-1].seq, log[-1].at_us)


def test_13_4_input_waits_and_results_are_processed_on_receipt(world: World) -> None:
    session_id = world.create()
    assert world.say(session_id).public()["processed_at"] is None
    made = world.run(session_id, use())
    stored = world.send(session_id, {"type": "user.tool_result", "tool_use_id": made[0].id})
    assert stored[0].public()["processed_at"] is not None


def test_a_request_is_taken_whole_or_not_at_all(world: World) -> None:
    session_id = world.create()
    with pytest.raises(InvalidRequest, match=r"events\[1\]"):
        world.send(
            session_id,
            {"type": "user.message", "content": TEXT},
            {"type": "user.tool_result", "tool_use_id": "sevt_unknown"},
        )
    assert events.read(world.tx, session_id) == []


def test_input_offers_a_turn_wakes_the_loop_and_shows_the_session_as_running(
    world: World,
) -> None:
    session_id = world.create()
    with (
        world.hub.subscribe(TURN_TOPIC) as turn,
        world.hub.subscribe(session_topic(session_id)) as stream,
    ):
        world.say(session_id)
        assert not turn._hinted.is_set(), "no hint before the commit"
        world.commit()
        assert turn._hinted.is_set()
        assert stream._hinted.is_set()
    lease = leases.claim(world.tx, leases.TURNS, "me", world.now_us, 1000)
    assert lease is not None
    assert lease.key == session_id
    assert row(world, session_id).status == "running"


def test_a_lone_system_message_starts_nothing(world: World) -> None:
    session_id = world.create()
    world.send(session_id, {"type": "system.message", "content": TEXT})
    assert leases.claim(world.tx, leases.TURNS, "me", world.now_us, 1000) is None
    assert row(world, session_id).status == "idle"


def test_input_while_the_loop_holds_the_session_is_not_lost(world: World) -> None:
    session_id = world.create()
    world.say(session_id)
    lease = leases.claim(world.tx, leases.TURNS, "me", world.now_us, 1000)
    world.say(session_id, "more")
    assert leases.finish(world.tx, lease, world.now_us) is True


def test_the_loop_writes_only_while_its_lease_is_the_newest(world: World) -> None:
    session_id = world.create()
    world.say(session_id)
    old = leases.claim(world.tx, leases.TURNS, "old", world.now_us, 1)
    leases.reap(world.tx, leases.TURNS, world.now_us + 1)
    new = leases.claim(world.tx, leases.TURNS, "new", world.now_us + 1, 1000)
    before = events.read(world.tx, session_id)
    with pytest.raises(LostLease):
        world.journal.held(world.tx, session_id, old.epoch)
    assert events.read(world.tx, session_id) == before
    held = world.journal.held(world.tx, session_id, new.epoch)
    world.journal.record(world.tx, held, [Draft("session.status_running")])


def test_amb_21_an_answer_sent_twice_gives_the_stored_event(world: World) -> None:
    session_id = world.create()
    world.say(session_id)
    made = world.run(session_id, use(), use("ask"))
    result = {"type": "user.tool_result", "tool_use_id": made[0].id, "content": TEXT}
    allow = {"type": "user.tool_confirmation", "tool_use_id": made[1].id, "result": "allow"}
    first = world.send(session_id, result, allow)
    size = len(events.read(world.tx, session_id))
    assert world.send(session_id, allow, result) == first[::-1]
    assert len(events.read(world.tx, session_id)) == size
    again = world.send(session_id, {**result, "content": []}, result)
    assert again == [first[0], first[0]]


def test_other_workspaces_and_environments_do_not_see_the_session(world: World) -> None:
    session_id = world.create()
    for stranger in (
        replace(world.api, workspace_id="wrkspc_other"),
        replace(world.worker, environment_id="env_other"),
        replace(world.worker, session_id="sesn_other"),
    ):
        with pytest.raises(NotFound):
            world.send(session_id, {"type": "user.message", "content": TEXT}, by=stranger)
    with pytest.raises(NotFound):
        world.say("sesn_none")


def test_rows_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = world.create()
    monkeypatch.setattr(journal_module, "MAX_RECORD_BYTES", 100)
    with pytest.raises(TooLarge, match=r"user\.message"):
        world.say(session_id, "x" * 100)
    monkeypatch.setattr(journal_module, "MAX_DRAFTS", 1)
    with pytest.raises(TooLarge, match="2 events"):
        world.loop(session_id, Draft("a"), Draft("b"))


@pytest.mark.rule("c9_2")
def test_amb_13_a_session_that_runs_has_one_live_item(world: World) -> None:
    session_id = world.create()
    world.say(session_id)
    world.run(session_id, use())
    (item,) = world.items(session_id)
    assert item.state is WorkState.QUEUED
    served = world.serve(session_id)
    world.send(session_id, {"type": "user.interrupt"})
    assert [i.id for i in world.items(session_id)] == [served.id]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "user.message", "content": TEXT},
        {"type": "user.interrupt"},
    ],
)
@pytest.mark.rule("c21_7")
def test_amb_15_input_gives_an_abandoned_session_a_new_item(
    world: World, event: dict[str, object]
) -> None:
    session_id = world.create()
    served = world.serve(session_id)
    world.work.stop(world.tx, world.worker, world.environment_id, served.id, force=True)
    assert world.items(session_id) == []
    world.commit()
    with world.hub.subscribe(work_topic(world.environment_id)) as poller:
        world.send(session_id, event)
        world.commit()
        assert poller._hinted.is_set()
    assert [item.state for item in world.items(session_id)] == [WorkState.QUEUED]


def test_sandboxes_of_the_cloud_need_no_worker(world: World) -> None:
    session_id = world.create("cloud")
    world.say(session_id)
    assert world.items(session_id) == []


def test_what_crosses_the_wall_is_recorded_by_digest(world: World) -> None:
    session_id = world.create()
    world.say(session_id, "the secret words")
    world.run(session_id, use())
    kinds = audited(world)
    assert kinds.index("session.input") < kinds.index("session.calls")
    lines = "".join(world.tx.execute(select(audit.c.line)).scalars())
    assert "sha256" in lines
    assert "the secret words" not in lines


def test_a_session_that_ends_lets_go_of_whoever_serves_it(world: World) -> None:
    waiting, served = world.create(), world.create()
    world.clock.advance(1)
    first, second = (world.items(s)[0] for s in (waiting, served))
    world.work.acknowledge(world.tx, world.worker, world.environment_id, second.id)
    for session_id in (waiting, served):
        world.loop(session_id, Draft("session.status_terminated"))
    states = [world.work.get(world.tx, world.environment_id, i.id).state for i in (first, second)]
    assert states == [WorkState.STOPPED, WorkState.STOPPING]


def define(**more: object) -> dict[str, object]:
    rubric = {"type": "text", "content": "- a"}
    return {"type": "user.define_outcome", "description": "x", "rubric": rubric, **more}


def test_an_outcome_is_named_shown_and_starts_a_turn(world: World) -> None:
    session_id = world.create()
    (echo,) = world.send(session_id, define(max_iterations=2))
    assert str(echo.body["outcome_id"]).startswith("outc_")
    assert not echo.queued
    stored = row(world, session_id)
    (shown,) = stored.outcomes
    assert (shown["outcome_id"], shown["result"]) == (echo.body["outcome_id"], "pending")
    assert stored.status == "running"
    world.loop(
        session_id,
        Draft("session.status_running"),
        Draft("internal.outcome_started", {"outcome_id": echo.body["outcome_id"]}),
    )
    assert row(world, session_id).outcomes[0]["result"] == "running"


def test_a_session_has_room_for_so_many_outcomes(world: World) -> None:
    session_id = world.create()
    world.send(session_id, *[define()] * 100)
    with pytest.raises(InvalidRequest, match="at most 100"):
        world.send(session_id, define())
    assert len(row(world, session_id).outcomes) == 100


def test_who_watches_sees_every_row_in_the_transaction_that_writes_it(world: World) -> None:
    seen: list[tuple[str, str]] = []

    def watch(tx: Tx, session: Row[Any], written: Sequence[Record]) -> None:
        assert tx is world.tx
        seen.extend((session.id, record.type) for record in written)

    world.journal._watch = watch
    session_id = world.create()
    world.say(session_id)
    world.run(session_id, use())
    log = events.read(world.tx, session_id)
    assert seen == [(session_id, record.type) for record in log]
