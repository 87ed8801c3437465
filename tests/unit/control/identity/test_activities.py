import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, insert

from intramuros.control.identity import activities, audit, compliance, origin
from intramuros.control.identity.activities import RETENTION_US, Query
from intramuros.control.identity.activity_types import NAMES
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import activities as table
from intramuros.control.store.tables import audit as chain
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import ManualClock, to_micros

ORG = "00000000-0000-5000-8000-000000000001"
ALL = Query(limit=5000)
KINDS = ("agent.create", "agent.archive", "vault.create", "file.create")


def act(tx: Tx, clock: ManualClock, kind: str = "agent.create", by: str = "apikey_1") -> None:
    caller = Principal(CredentialKind.API_KEY, by, "wrkspc_test")
    with origin.bound("127.0.0.1", "sdk", "req_1"):
        origin.identify(caller)
        audit.record(tx, clock, kind, workspace_id="wrkspc_test", fields={"id": "x_1"})


def found(tx: Tx, clock: ManualClock, query: Query = ALL) -> list[dict[str, Any]]:
    return activities.find(tx, query, ORG, to_micros(clock.now()))[0]


@pytest.fixture
def many(tx: Tx, clock: ManualClock) -> list[dict[str, Any]]:
    """Activities of four types by three keys, some at the same time, some after a step back."""
    compliance.switch(tx, clock, on=True)
    for number in range(40):
        clock.advance((0, 1, 0, 3, -2)[number % 5])
        act(tx, clock, KINDS[number % 4], f"apikey_{number % 3}")
    clock.advance(60)
    return found(tx, clock)


def test_R374_newest_first_and_ties_in_the_order_they_happened(
    many: list[dict[str, Any]],
) -> None:
    keys = [(activity["created_at"], activity["id"]) for activity in many]
    assert keys == sorted(keys, reverse=True)
    assert len({key[1] for key in keys}) == 40


@pytest.mark.parametrize("limit", [1, 3, 7, 40])
@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize(
    "narrow",
    [
        {},
        {"types": ["platform_vault_created", "platform_agent_archived"]},
        {"not_types": ["platform_vault_created"]},
        {"actor_ids": ["apikey_1", "apikey_2"]},
        {"types": ["platform_file_uploaded"], "actor_ids": ["apikey_0"]},
    ],
)
def test_R374_every_walk_meets_everything_once(
    tx: Tx,
    clock: ManualClock,
    many: list[dict[str, Any]],
    limit: int,
    oldest_first: bool,
    narrow: dict[str, Any],
) -> None:
    def wanted(activity: dict[str, Any]) -> bool:
        return (
            activity["type"] in narrow.get("types", [activity["type"]])
            and activity["type"] not in narrow.get("not_types", [])
            and activity["actor"]["api_key_id"]
            in narrow.get("actor_ids", [activity["actor"]["api_key_id"]])
        )

    expected = [activity for activity in many if wanted(activity)][:: -1 if oldest_first else 1]
    query = Query(limit=limit, oldest_first=oldest_first, **narrow)
    walked, after, more = [], None, True
    while more:
        page, more = activities.find(
            tx, replace(query, after_id=after), ORG, to_micros(clock.now())
        )
        walked += page
        after = page[-1]["id"]
    assert walked == expected
    back, before, more = [], after, True
    while more:
        page, more = activities.find(
            tx, replace(query, before_id=before), ORG, to_micros(clock.now())
        )
        back = page + back
        before = page[0]["id"] if page else before
    assert back == expected[:-1]


def test_R374_six_years_and_no_longer(tx: Tx, clock: ManualClock) -> None:
    compliance.switch(tx, clock, on=True)
    act(tx, clock)
    mark = found(tx, clock)[0]["id"]
    clock.advance(RETENTION_US // 1_000_000)
    assert len(found(tx, clock)) == 1
    clock.advance(1)
    assert found(tx, clock) == []
    # A position that is too old to be shown is still one.
    act(tx, clock)
    assert len(found(tx, clock, Query(limit=5, oldest_first=True, after_id=mark))) == 1


def test_R375_including_and_excluding_contradict_each_other(tx: Tx, clock: ManualClock) -> None:
    with pytest.raises(InvalidRequest, match="exclude_activity_types"):
        found(tx, clock, Query(limit=5, types=["a"], not_types=["b"]))
    with pytest.raises(InvalidRequest, match="before_id"):
        found(tx, clock, Query(limit=5, after_id="a", before_id="b"))


def test_a_position_is_an_activity_of_this_chain(
    tx: Tx, clock: ManualClock, many: list[dict[str, Any]]
) -> None:
    real = many[0]["id"]
    forged = real[:-1] + ("0" if real[-1] != "0" else "1")
    compliance.switch(tx, clock, on=False)
    act(tx, clock)  # a record that is no activity
    head = audit.read_head(tx)
    unseen = f"activity_{head.seq:012x}{head.hash[:16]}"
    for wrong in (forged, unseen, "activity_" + "f" * 28, real + "0", "", "agent_1"):
        with pytest.raises(InvalidRequest, match="no such activity"):
            found(tx, clock, Query(limit=5, after_id=wrong))


def test_what_is_shown_is_what_the_chain_says(
    tx: Tx, clock: ManualClock, many: list[dict[str, Any]]
) -> None:
    records = {record["hash"][:16]: record for record in map(json.loads, audit.read_lines(tx))}
    for activity in many:
        record = records[activity["id"][-16:]]
        assert activity["created_at"] == record["at"]
        assert activity["actor"]["api_key_id"] == record["fields"]["origin"]["credential_id"]


def test_switching_is_told_both_ways(tx: Tx, clock: ManualClock, actor: Actor) -> None:
    for on in (True, True, False, False, True):
        activities.set_state(tx, actor, on=on)
    told = [activity["compliance_api_enabled"] for activity in found(tx, clock)]
    assert told == [True, False, True]
    activities.note_access(tx, actor, "req_1", "http://x/")
    newest = found(tx, clock)[0]
    assert newest["organization_id"] is None
    assert found(tx, clock, Query(limit=1, organization_only=True))[0]["type"] != newest["type"]


@pytest.mark.parametrize(
    "narrow",
    [
        {"types": sorted(NAMES)},
        {"not_types": [f"type_{n}" for n in range(390)] + sorted(NAMES)},
        {},
    ],
)
def test_the_longest_question_is_answered(
    tx: Tx, clock: ManualClock, many: list[dict[str, Any]], narrow: dict[str, Any]
) -> None:
    actors = [f"apikey_{n}" for n in range(200)]
    query = Query(limit=5000, actor_ids=actors, after_id=many[0]["id"], before_us=10**18, **narrow)
    assert len(found(tx, clock, query)) == (0 if "not_types" in narrow else 39)


@pytest.mark.sqlite
def test_every_walk_has_its_index(tx: Tx, clock: ManualClock) -> None:
    rows = [
        {"seq": n, "at_us": n, "kind": "agent.create", "line": "{}", "hash": "0" * 64}
        for n in range(1, 2000)
    ]
    tx.execute(insert(chain), rows)
    tx.execute(
        insert(table),
        [
            {"seq": n, "at_us": n, "type": f"type_{n % 2}", "actor_id": f"a_{n % 2}"}
            for n in range(1, 2000)
        ],
    )
    tx.connection.exec_driver_sql("ANALYZE")
    plans = []

    def explain(conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "activities" in statement and not statement.startswith("EXPLAIN"):
            plan = conn.connection.driver_connection.execute(
                "EXPLAIN QUERY PLAN " + statement, parameters
            )
            plans.append(" ".join(row[3] for row in plan))

    event.listen(tx.connection, "before_cursor_execute", explain)
    missing = "platform_agent_created"  # of which there is none among the many
    for query in (
        Query(limit=2, before_us=0),
        Query(limit=2, types=[missing]),
        Query(limit=2, actor_ids=["nobody"]),
    ):
        found(tx, clock, query)
    event.remove(tx.connection, "before_cursor_execute", explain)
    for plan, index in zip(plans, ("time", "type", "actor"), strict=True):
        assert f"ix_activities_{index}" in plan
        assert "SCAN activities" not in plan
