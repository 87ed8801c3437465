import re
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text
from sqlalchemy.dialects import sqlite

from intramuros.control.store import work as rows
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import pollers, sessions
from intramuros.protocol.work import LEASED, Item, WorkState
from tests.engines import ignore_foreign_keys

E = "env_1"


def item(number: int, created_us: int | None = None, **parts: object) -> Item:
    made = Item(f"work_{number}", E, f"sesn_{number}", number if created_us is None else created_us)
    return replace(made, **parts)


def added(tx: Tx, *items: Item) -> None:
    for one in items:
        rows.add(tx, one)


def test_items_come_back_as_they_were_saved(tx: Tx) -> None:
    made = item(1)
    rows.add(tx, made)
    assert rows.get(tx, E, made.id) == made
    changed = replace(
        made,
        state=WorkState.STOPPING,
        acknowledged_us=2,
        started_us=3,
        stop_requested_us=4,
        expires_us=5,
        ttl_s=6,
        heartbeat="t",
        dormant=True,
        stop_seen=True,
        metadata={"a": "ü"},
    )
    rows.save(tx, changed)
    assert rows.get(tx, E, made.id, hold=True) == changed
    assert rows.get(tx, "env_2", made.id) is None


def test_the_longest_waiting_item_goes_first(tx: Tx) -> None:
    added(tx, item(3), item(1), item(2))
    assert [rows.claim(tx, E, "w", 10, 5).id for _ in range(3)] == ["work_1", "work_2", "work_3"]
    assert rows.claim(tx, E, "w", 10, 5) is None
    assert not rows.has_claimable(tx, E, 10, 5)


def test_a_claim_that_was_not_acknowledged_can_be_repeated(tx: Tx) -> None:
    added(tx, item(1))
    assert rows.claim(tx, E, "w", 10, 5).id == "work_1"
    assert rows.claim(tx, E, "w", 14, 5) is None
    assert rows.has_claimable(tx, E, 15, 5)
    assert rows.claim(tx, E, "w", 15, 5).id == "work_1"


def test_a_requeued_item_goes_behind(tx: Tx) -> None:
    added(tx, item(1), item(2))
    rows.claim(tx, E, "w", 10, 5)
    rows.requeue(tx, item(1), 11)
    assert [rows.claim(tx, E, "w", 12, 5).id for _ in range(2)] == ["work_2", "work_1"]


def test_environments_have_queues_of_their_own(tx: Tx) -> None:
    added(tx, item(1), replace(item(2), environment_id="env_2"))
    assert rows.claim(tx, "env_2", "w", 10, 5).id == "work_2"
    assert rows.claim(tx, "env_2", "w", 10, 5) is None


def in_store(tx: Tx, session_id: str, kind: str) -> None:
    # Its agent and environment do not matter here.
    ignore_foreign_keys(tx.connection)
    tx.execute(
        insert(sessions).values(
            id=session_id,
            workspace_id="wrkspc_test",
            environment_id=E,
            environment_kind=kind,
            agent_id="agent_1",
            agent_version=1,
            agent={},
            metadata={},
            resources=[],
            vault_ids=[],
            status="idle",
            state={},
            last_seq=0,
            created_us=0,
            updated_us=0,
        )
    )


def test_the_pool_gets_the_items_of_cloud_sessions_alone(tx: Tx) -> None:
    for number, kind in ((1, "self_hosted"), (2, "cloud"), (3, "cloud")):
        in_store(tx, f"sesn_{number}", kind)
    added(tx, item(1), item(3), replace(item(2), environment_id="env_2"))
    assert rows.has_hosted(tx, 10, 5)
    claimed = [rows.claim_hosted(tx, "w", 10, 5) for _ in range(3)]
    assert [found and (found[0].id, found[1]) for found in claimed] == [
        ("work_2", "wrkspc_test"),
        ("work_3", "wrkspc_test"),
        None,
    ]
    assert not rows.has_hosted(tx, 14, 5)
    again = rows.claim_hosted(tx, "w", 15, 5)
    assert again is not None
    assert again[0].id == "work_2"


def test_a_cloud_session_that_is_being_left_waits(tx: Tx) -> None:
    in_store(tx, "sesn_1", "cloud")
    added(tx, item(1, state=WorkState.STOPPING), replace(item(2), session_id="sesn_1"))
    assert rows.claim_hosted(tx, "w", 10, 5) is None
    rows.save(tx, item(1, state=WorkState.STOPPED))
    assert rows.claim_hosted(tx, "w", 10, 5) is not None


@pytest.mark.sqlite
def test_the_pool_looks_at_what_waits_and_not_at_what_was(tx: Tx) -> None:
    # What is planned for is the statement that a poll runs most: whether there is anything.
    query = rows.hosted(10, 5).limit(1).compile(dialect=sqlite.dialect())
    places = tuple(query.params[name] for name in query.positiontup or ())
    plan = tx.execute(
        text(f"EXPLAIN QUERY PLAN {query}".replace("?", "{}").format(*map(repr, places)))
    )
    told = " ".join(str(row) for row in plan)
    assert "SEARCH sessions" in told, told
    assert "ix_leases_waiting" in told, told


def test_only_items_that_are_not_stopped_serve_a_session(tx: Tx) -> None:
    stopped = item(1, state=WorkState.STOPPED)
    live = replace(item(2), session_id="sesn_1")
    added(tx, stopped, live)
    assert rows.of_session(tx, E, "sesn_1") == [live]


def test_what_has_lapsed_and_what_is_held(tx: Tx) -> None:
    parts = {"expires_us": 50}
    states = [WorkState.STARTING, WorkState.ACTIVE, WorkState.STOPPING]
    leased = [item(n, state=state, **parts) for n, state in enumerate(states)]
    added(tx, *leased, item(7), item(8, state=WorkState.STOPPED))
    assert rows.lapsed(tx, 49) == []
    assert rows.lapsed(tx, 50) == leased
    assert rows.held(tx) == leased[:2]


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_amb_35_pages_are_newest_first_with_the_id_as_tiebreak(tx: Tx, limit: int) -> None:
    made = [item(n, created_us=at) for n, at in ((1, 5), (2, 5), (3, 6), (4, 4))]
    added(tx, *made)
    found: list[Item] = []
    after = None
    while True:
        page, after = rows.page(tx, E, limit, after)
        found += page
        if after is None:
            break
    assert [one.id for one in found] == ["work_3", "work_2", "work_1", "work_4"]


def test_9_37_counts(tx: Tx) -> None:
    assert rows.count_queued(tx, E) == (0, 0, None)
    added(tx, item(1), item(2), item(3), item(4, state=WorkState.ACTIVE))
    rows.claim(tx, E, "w", 10, 5)
    assert rows.count_queued(tx, E) == (2, 1, 1)


def test_9_38_pollers_are_counted_and_forgotten(tx: Tx) -> None:
    rows.note_poller(tx, E, "w1", 100)
    rows.note_poller(tx, E, "w1", 200)
    rows.note_poller(tx, E, "w2", 150)
    rows.note_poller(tx, "env_2", "w3", 150)
    assert rows.count_pollers(tx, E, 150) == 2
    assert rows.count_pollers(tx, E, 151) == 1
    rows.note_poller(tx, E, "w4", 10**12)
    assert len(tx.execute(pollers.select()).all()) == 1


@pytest.mark.sqlite
def test_the_reaper_looks_at_what_is_served_and_not_at_what_was(tx: Tx) -> None:
    named = set(re.findall(r"'(\w+)'", str(rows._SERVED)))
    assert named == {state.value for state in LEASED}
    plans: list[str] = []

    def explain(connection: Connection, _c: Any, sql: str, given: Any, *_: Any) -> None:
        if not sql.startswith("EXPLAIN"):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given)
            plans.append(str(plan.all()))

    event.listen(tx.connection, "before_cursor_execute", explain)
    rows.lapsed(tx, 1)
    rows.held(tx)
    event.remove(tx.connection, "before_cursor_execute", explain)
    assert len(plans) == 2
    assert all("ix_leases_served" in plan for plan in plans), plans
