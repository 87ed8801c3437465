from typing import Any

import pytest
from sqlalchemy import insert, select

from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import telemetry_destinations
from intramuros.control.store.tables import workspaces
from intramuros.control.tracing import coverage, destinations
from intramuros.control.tracing.destinations import Rules
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.protocol.resources.telemetry import CoverExclude, CoverInclude, DestinationCreate


def made(tx: Tx, actor: Actor, rules: Rules, cover: dict[str, Any]) -> Any:
    body = {"endpoint_url": "https://c.example", "workspaces": cover}
    shown = destinations.create(tx, actor, rules, DestinationCreate.model_validate(body))
    return destinations.find_row(tx, shown["id"])


def workspace(tx: Tx, id: str, *, archived: bool = False) -> str:
    at = 5 if archived else None
    tx.execute(insert(workspaces).values(id=id, name=id, created_us=9, archived_us=at))
    return id


def covering(tx: Tx, *ids: str) -> set[str]:
    which = select(telemetry_destinations.c.id).where(coverage.covers(ids))
    return set(tx.execute(which).scalars())


def test_each_way_of_covering_means_what_it_says(tx: Tx, actor: Actor, rules: Rules) -> None:
    one, two = workspace(tx, "wrkspc_1"), workspace(tx, "wrkspc_2")
    every = made(tx, actor, rules, {"type": "all"}).id
    only = made(tx, actor, rules, {"type": "include", "workspace_ids": [one]}).id
    none = made(tx, actor, rules, {"type": "include"}).id
    but = made(tx, actor, rules, {"type": "exclude", "workspace_ids": [one]}).id
    assert covering(tx, one) == {every, only}
    assert covering(tx, two) == {every, but}
    assert covering(tx, one, two) == {every, only, but}
    assert covering(tx, "wrkspc_nobody") == set()
    assert covering(tx) == set()
    coverage.add(tx, destinations.find_row(tx, none), two, 7)
    assert none in covering(tx, two)


def test_a_list_is_replaced_and_what_stays_keeps_its_time(
    tx: Tx, actor: Actor, rules: Rules
) -> None:
    one, two = workspace(tx, "wrkspc_1"), workspace(tx, "wrkspc_2")
    row = made(tx, actor, rules, {"type": "include", "workspace_ids": [one]})
    assert coverage.change(tx, row, CoverInclude(type="include", workspace_ids=[two, one]), 99)
    listed = {r.workspace_id: r.created_us for r in coverage.find(tx, row.id, 10, None)[0]}
    assert listed[two] == 99
    assert listed[one] != 99
    assert not coverage.change(tx, row, CoverInclude(type="include"), 100)
    assert not coverage.change(tx, row, CoverInclude(type="include", workspace_ids=[one, two]), 1)
    assert coverage.change(tx, row, CoverExclude(type="exclude"), 101)
    assert coverage.find(tx, row.id, 10, None) == ([], False)


def test_archived_workspaces_stay_and_are_not_added(tx: Tx, actor: Actor, rules: Rules) -> None:
    gone = workspace(tx, "wrkspc_gone", archived=True)
    row = made(tx, actor, rules, {"type": "include"})
    with pytest.raises(InvalidRequest, match="archived"):
        coverage.add(tx, row, gone, 1)
    with pytest.raises(InvalidRequest, match="archived"):
        coverage.replace(tx, row.id, CoverInclude(type="include", workspace_ids=[gone]), 1)
    with pytest.raises(InvalidRequest, match="workspace_ids"):
        coverage.replace(tx, row.id, CoverInclude(type="include", workspace_ids=["x"]), 1)


def test_lists_are_bounded(
    tx: Tx, actor: Actor, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (coverage.MAX_LISTED, coverage.MAX_REPLACED) == (1000, 750)
    monkeypatch.setattr(coverage, "MAX_LISTED", 2)
    monkeypatch.setattr(coverage, "MAX_REPLACED", 1)
    row = made(tx, actor, rules, {"type": "include"})
    for n in range(2):
        coverage.add(tx, row, workspace(tx, f"wrkspc_{n}"), n)
    with pytest.raises(InvalidRequest, match="at most 2"):
        coverage.add(tx, row, workspace(tx, "wrkspc_more"), 3)
    assert coverage.add(tx, row, "wrkspc_0", 9)["workspace_id"] == "wrkspc_0"
    with pytest.raises(InvalidRequest, match="one by one"):
        coverage.change(tx, row, CoverExclude(type="exclude"), 4)
    first, more = coverage.find(tx, row.id, 1, None)
    rest, _ = coverage.find(tx, row.id, 1, (first[0].created_us, first[0].workspace_id))
    assert ([r.workspace_id for r in (*first, *rest)], more) == (["wrkspc_1", "wrkspc_0"], True)
    coverage.remove(tx, row, "wrkspc_1")
    with pytest.raises(NotFound):
        coverage.remove(tx, row, "wrkspc_1")
