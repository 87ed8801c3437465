import pytest
from sqlalchemy import func, insert, select

from intramuros.control.store import leases, outbox
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import workspaces
from intramuros.control.store.webhook_tables import (
    webhook_deliveries,
    webhook_events,
    webhook_subscriptions,
)
from intramuros.kernel.timing import ManualClock, to_micros
from tests.fakes.outbox import listen, told, waiting

W = "wrkspc_test"


def count(tx: Tx, table: object) -> int:
    return int(tx.scalar(select(func.count()).select_from(table)) or 0)


def test_what_nobody_listens_to_leaves_no_trace(tx: Tx, clock: ManualClock) -> None:
    listen(tx, "vault.deleted")
    assert outbox.tell(tx, clock, "vault.created", workspace_id=W, resource_id="vlt_1") == 0
    assert (count(tx, webhook_events), count(tx, webhook_deliveries)) == (0, 0)
    assert leases.next_ready_us(tx, outbox.QUEUE) is None


def test_R276_every_endpoint_subscribed_at_that_moment_is_told_and_no_other(
    tx: Tx, clock: ManualClock
) -> None:
    for name in ("whep_1", "whep_2"):
        listen(tx, "vault.created", endpoint_id=name)
    heard = outbox.tell(tx, clock, "vault.created", workspace_id=W, resource_id="vlt_1")
    listen(tx, "vault.created", endpoint_id="whep_late")
    assert heard == 2
    assert count(tx, webhook_events) == 1
    for name in ("whep_1", "whep_2"):
        assert waiting(tx, name) == [{"type": "vault.created", "id": "vlt_1", "workspace_id": W}]
        assert leases.claim(tx, outbox.QUEUE, "me", to_micros(clock.now()), 1_000_000) is not None
    assert waiting(tx, "whep_late") == []
    assert leases.next_ready_us(tx, outbox.QUEUE) is None


def test_a_foreign_workspace_hears_nothing(tx: Tx, clock: ManualClock) -> None:
    tx.execute(insert(workspaces).values(id="wrkspc_other", name="Other", created_us=0))
    listen(tx, "vault.created", workspace_id="wrkspc_other")
    assert outbox.tell(tx, clock, "vault.created", workspace_id=W, resource_id="vlt_1") == 0
    assert waiting(tx) == []


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("user_profile.enforcement_action_opened", {"enforcement_action_id": "enac_1"}),
        ("user_profile.program_status_updated", {}),
        ("external_key.failed", {}),
    ],
)
def test_R259_kinds_of_the_organization_name_no_workspace(
    tx: Tx, clock: ManualClock, kind: str, more: dict[str, str]
) -> None:
    listen(tx, kind, workspace_id=None)
    listen(tx, kind, endpoint_id="whep_workspace")
    assert outbox.tell(tx, clock, kind, workspace_id=W, resource_id="x_1", **more) == 1
    assert waiting(tx) == [{"type": kind, "id": "x_1", **more}]


def test_no_workspace_named_like_the_organizations_scope_hears_of_it(
    tx: Tx, clock: ManualClock
) -> None:
    listen(tx, "external_key.failed", "vault.created", workspace_id=None)
    assert outbox.tell(tx, clock, "vault.created", workspace_id=None, resource_id="v") == 0


def test_further_ids_are_carried(tx: Tx, clock: ManualClock) -> None:
    listen(tx, "session.thread_idled")
    outbox.tell(
        tx,
        clock,
        "session.thread_idled",
        workspace_id=W,
        resource_id="sesn_1",
        session_thread_id="sthr_2",
    )
    assert waiting(tx)[0]["session_thread_id"] == "sthr_2"


@pytest.mark.parametrize("kind", ["vault.updated", "session.idled", "session.created", "x"])
def test_only_what_webhooks_tell_of_is_told(tx: Tx, clock: ManualClock, kind: str) -> None:
    with pytest.raises(ValueError, match="do not tell"):
        outbox.tell(tx, clock, kind, workspace_id=W, resource_id="vlt_1")


def test_events_of_one_moment_are_told_apart_by_their_source(tx: Tx, clock: ManualClock) -> None:
    listen(tx, "session.status_idled")
    for source in ("sevt_1", "sevt_2"):
        outbox.tell(
            tx,
            clock,
            "session.status_idled",
            workspace_id=W,
            resource_id="sesn_1",
            source=source,
        )
    ids = tx.execute(select(webhook_events.c.id)).scalars().all()
    assert len(set(ids)) == 2
    assert all(one.startswith("whe_") and len(one) == 30 for one in ids)


def test_a_full_backlog_loses_its_own_events_only(
    tx: Tx, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_WAITING", 2)
    listen(tx, "vault.created", "vault.deleted")
    for number in range(2):
        outbox.tell(tx, clock, "vault.created", workspace_id=W, resource_id=f"vlt_{number}")
    listen(tx, "vault.deleted", endpoint_id="whep_2")
    assert outbox.tell(tx, clock, "vault.deleted", workspace_id=W, resource_id="vlt_1") == 1
    assert told(tx) == ["vault.created"] * 2
    assert told(tx, "whep_2") == ["vault.deleted"]


def test_a_rolled_back_act_is_not_told(tx: Tx, clock: ManualClock) -> None:
    listen(tx, "vault.created")
    savepoint = tx.connection.begin_nested()
    outbox.tell(tx, clock, "vault.created", workspace_id=W, resource_id="vlt_1")
    savepoint.rollback()
    assert waiting(tx) == []
    assert count(tx, webhook_subscriptions) == 1
