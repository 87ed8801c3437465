import json

import pytest
from sqlalchemy import insert, select

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import AGENT, CERTIFICATE, ENVIRONMENT, TUNNEL
from intramuros.control.catalog.service import Query
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import resource_versions, workspaces
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.audit import verify


def acts(tx: Tx) -> list[dict[str, object]]:
    lines = list(audit.read_lines(tx))
    verify(lines)
    return [json.loads(line) for line in lines]


def test_versions_are_kept_and_each_change_is_recorded(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    first = service.create(tx, actor, AGENT, {"n": 1})
    clock.advance(1)
    second = service.change(tx, actor, AGENT, first, {"n": 2})
    assert (first.version, second.version) == (1, 2)
    assert second.updated_us == first.updated_us + 1_000_000
    assert service.get(tx, "wrkspc_test", AGENT, first.id) == second
    old = service.get(tx, "wrkspc_test", AGENT, first.id, 1)
    assert (old.body, old.version, old.updated_us) == ({"n": 1}, 1, first.updated_us)
    assert [(a["kind"], a["fields"]) for a in acts(tx)] == [
        (
            kind,
            {
                "id": first.id,
                "by": "apikey_test",
                "version": version,
                "digest": service.digest({"n": version}),
                "workspace_id": "wrkspc_test",
            },
        )
        for kind, version in (("agent.create", 1), ("agent.update", 2))
    ]


def test_changing_nothing_stores_and_records_nothing(tx: Tx, actor: Actor) -> None:
    made = service.create(tx, actor, AGENT, {"n": 1})
    assert service.change(tx, actor, AGENT, made, {"n": 1}) is made
    assert len(acts(tx)) == 1


def test_time_never_runs_backwards_between_versions(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    clock.advance(100)
    made = service.create(tx, actor, AGENT, {"n": 1})
    clock.advance(-50)
    assert service.change(tx, actor, AGENT, made, {"n": 2}).updated_us == made.updated_us


def test_unversioned_kinds_keep_the_newest_only(tx: Tx, actor: Actor) -> None:
    made = service.create(tx, actor, ENVIRONMENT, {"n": 1})
    service.change(tx, actor, ENVIRONMENT, made, {"n": 2})
    assert tx.scalar(select(resource_versions.c.version)) is None
    with pytest.raises(NotFound):
        service.get(tx, "wrkspc_test", ENVIRONMENT, made.id, 1)


def test_nobody_sees_another_workspace_or_kind(tx: Tx, actor: Actor) -> None:
    tx.execute(insert(workspaces).values(id="wrkspc_other", name="Other", created_us=0))
    made = service.create(tx, actor, AGENT, {})
    for workspace, kind in (("wrkspc_other", AGENT), ("wrkspc_test", ENVIRONMENT)):
        with pytest.raises(NotFound):
            service.get(tx, workspace, kind, made.id)
        assert service.find(tx, workspace, kind, Query(10)) == ([], False)


def test_archiving_and_removing(tx: Tx, actor: Actor, clock: ManualClock) -> None:
    made = service.create(tx, actor, AGENT, {})
    archived = service.archive(tx, actor, made)
    clock.advance(5)
    assert service.archive(tx, actor, archived) is archived
    with pytest.raises(InvalidRequest, match="archived"):
        service.check_active(AGENT, archived)
    assert service.find(tx, "wrkspc_test", AGENT, Query(10)) == ([], False)
    assert service.find(tx, "wrkspc_test", AGENT, Query(10, include_archived=True))[0] == [archived]
    service.remove(tx, actor, archived)
    with pytest.raises(NotFound):
        service.get(tx, "wrkspc_test", AGENT, made.id)
    assert [act["kind"] for act in acts(tx)] == ["agent.create", "agent.archive", "agent.delete"]


def test_pages_cover_everything_once_even_within_one_microsecond(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    made = []
    for index in range(7):
        made.append(service.create(tx, actor, AGENT, {"n": index}))
        if index % 3 == 0:
            clock.advance(1)
    seen: list[str] = []
    after = None
    while True:
        found, more = service.find(tx, "wrkspc_test", AGENT, Query(2, after))
        seen += [resource.id for resource in found]
        if not more:
            break
        after = (found[-1].created_us, found[-1].id)
    assert sorted(seen) == sorted(resource.id for resource in made)
    assert len(seen) == 7
    times = {resource.id: resource.created_us for resource in made}
    assert [times[i] for i in seen] == sorted(times.values(), reverse=True)


def test_filters_are_inclusive_and_narrow_by_parent(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    tunnel = service.create(tx, actor, TUNNEL, {})
    made = []
    for _ in range(3):
        clock.advance(1)
        made.append(service.create(tx, actor, CERTIFICATE, {}, parent_id=tunnel.id))
    query = Query(
        10,
        parent_id=tunnel.id,
        created_gte_us=made[1].created_us,
        created_lte_us=made[2].created_us,
    )
    assert service.find(tx, "wrkspc_test", CERTIFICATE, query)[0] == [made[2], made[1]]
    assert service.find(tx, "wrkspc_test", CERTIFICATE, Query(10, parent_id="x")) == ([], False)


@pytest.mark.rule("c5_21")
def test_version_lists_page_from_the_highest(tx: Tx, actor: Actor) -> None:
    current = service.create(tx, actor, AGENT, {"n": 1})
    for number in range(2, 6):
        current = service.change(tx, actor, AGENT, current, {"n": number})
    first, more = service.versions(tx, current, 3, None)
    rest, end = service.versions(tx, current, 3, first[-1].version)
    assert ([r.version for r in first], more) == ([5, 4, 3], True)
    assert ([r.body["n"] for r in rest], end) == ([2, 1], False)


def test_only_the_expected_version_is_updated(tx: Tx, actor: Actor) -> None:
    made = service.create(tx, actor, AGENT, {})
    service.check_version(AGENT, made, None)
    service.check_version(AGENT, made, 1)
    with pytest.raises(Conflict, match="at version 1, not 2") as caught:
        service.check_version(AGENT, made, 2)
    assert caught.value.hints.should_retry is False
