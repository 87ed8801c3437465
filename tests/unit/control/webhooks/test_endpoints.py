import os
from typing import Any

import pytest
from sqlalchemy import insert, select

from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store import leases, outbox, rekey
from intramuros.control.store.db import Tx
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.tables import workspaces
from intramuros.control.store.webhook_tables import webhook_endpoints
from intramuros.control.webhooks import endpoints
from intramuros.control.webhooks.addresses import Policy
from intramuros.control.webhooks.endpoints import MAX_ENDPOINTS, Endpoints, Page
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.webhooks import (
    OrganizationEndpointCreate,
    WorkspaceEndpointCreate,
    WorkspaceEndpointUpdate,
)
from tests.fakes.outbox import waiting

W = "wrkspc_test"
URL = "https://hooks.example/in"


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, W, "apikey_test")


@pytest.fixture
def keeper() -> Endpoints:
    return Endpoints(Sealer(bytes(32), os.urandom), os.urandom, Policy())


def make(
    tx: Tx, actor: Actor, keeper: Endpoints, *kinds: str, workspace_id: str | None = W
) -> dict[str, Any]:
    model = WorkspaceEndpointCreate if workspace_id else OrganizationEndpointCreate
    body = {"url": URL, "enabled_events": kinds or ["vault.created"]}
    actor.clock.advance(1)
    return keeper.create(tx, actor, workspace_id, model.model_validate(body, strict=False))[0]


def change(tx: Tx, actor: Actor, keeper: Endpoints, made: Any, **sent: object) -> dict[str, Any]:
    actor.clock.advance(1)
    request = WorkspaceEndpointUpdate.model_validate(sent)
    return keeper.update(tx, actor, W, made["id"], request)


def tell(tx: Tx, actor: Actor, kind: str = "vault.created") -> int:
    actor.clock.advance(1)
    return outbox.tell(tx, actor.clock, kind, workspace_id=W, resource_id="vlt_1")


def test_R252_the_secret_is_shown_once_and_stored_sealed(
    tx: Tx, actor: Actor, keeper: Endpoints
) -> None:
    request = WorkspaceEndpointCreate(url=URL, enabled_events=["vault.created"])
    shown, secret = keeper.create(tx, actor, W, request)
    assert secret.startswith("whsec_")
    row = endpoints.get(tx, W, shown["id"])
    assert secret.encode() not in row.secret
    assert keeper.open_secret(row) == secret
    assert "secret" not in " ".join(endpoints.present(row))
    assert secret[6:] not in "".join(audit.read_lines(tx))


def test_a_new_master_key_seals_the_secrets_anew(tx: Tx, actor: Actor, keeper: Endpoints) -> None:
    request = WorkspaceEndpointCreate(url=URL, enabled_events=["vault.created"])
    shown, secret = keeper.create(tx, actor, W, request)
    new = Sealer(b"n" * 32, os.urandom)
    assert rekey.reseal(tx, keeper.sealer, new) == 1
    renewed = Endpoints(new, os.urandom, Policy())
    assert renewed.open_secret(endpoints.get(tx, W, shown["id"])) == secret


def test_R256_a_new_secret_takes_the_place_of_the_old_one(
    tx: Tx, actor: Actor, keeper: Endpoints
) -> None:
    made = make(tx, actor, keeper)
    old = keeper.open_secret(endpoints.get(tx, W, made["id"]))
    new = keeper.renew_secret(tx, actor, W, made["id"])
    assert new != old
    assert keeper.open_secret(endpoints.get(tx, W, made["id"])) == new


def test_R251_there_are_so_many_and_disabled_ones_count(
    tx: Tx, actor: Actor, keeper: Endpoints
) -> None:
    for scope in (W, None):
        kind = "vault.created" if scope else "external_key.failed"
        made = [make(tx, actor, keeper, kind, workspace_id=scope) for _ in range(MAX_ENDPOINTS)]
        row = endpoints.get(tx, scope, made[0]["id"])
        endpoints.disable(tx, actor.clock, row, endpoints.FAILING)
        with pytest.raises(InvalidRequest, match="32"):
            make(tx, actor, keeper, kind, workspace_id=scope)
        endpoints.remove(tx, actor, scope, made[0]["id"])
        make(tx, actor, keeper, kind, workspace_id=scope)


def test_R253_an_update_changes_what_it_names(tx: Tx, actor: Actor, keeper: Endpoints) -> None:
    made = make(tx, actor, keeper, "vault.created", "vault.deleted")
    named = change(tx, actor, keeper, made, name="N", enabled_events=[])
    assert (named["name"], named["enabled_events"]) == ("N", made["enabled_events"])
    assert named["updated_at"] > made["updated_at"]
    replaced = change(tx, actor, keeper, made, enabled_events=["agent.created"] * 2)
    assert (replaced["name"], replaced["enabled_events"]) == ("N", ["agent.created"])
    assert tell(tx, actor) == 0
    assert tell(tx, actor, "agent.created") == 1
    lines = len(list(audit.read_lines(tx)))
    assert change(tx, actor, keeper, made, name="N") == replaced
    assert len(list(audit.read_lines(tx))) == lines


def test_a_url_is_judged_whenever_it_is_set(tx: Tx, actor: Actor, keeper: Endpoints) -> None:
    made = make(tx, actor, keeper)
    with pytest.raises(InvalidRequest, match="not public"):
        change(tx, actor, keeper, made, url="https://127.0.0.1/")
    assert change(tx, actor, keeper, made, url="https://b.example/")["url"] == "https://b.example/"


def test_another_url_has_not_failed_yet(tx: Tx, actor: Actor, keeper: Endpoints) -> None:
    made = make(tx, actor, keeper)
    endpoints.note(tx, endpoints.get(tx, W, made["id"]), 7)
    change(tx, actor, keeper, made, url=URL)
    assert endpoints.get(tx, W, made["id"]).failing_since_us == 7
    change(tx, actor, keeper, made, url="https://b.example/")
    assert endpoints.get(tx, W, made["id"]).failing_since_us is None


def test_R254_what_happens_while_disabled_is_never_sent(
    tx: Tx, actor: Actor, keeper: Endpoints
) -> None:
    made = make(tx, actor, keeper)
    tell(tx, actor)
    disabled = change(tx, actor, keeper, made, state="disabled")
    assert (disabled["state"], disabled["disabled_reason"]) == ("disabled", "")
    assert tell(tx, actor) == 0
    change(tx, actor, keeper, made, state="enabled")
    assert waiting(tx, made["id"]) == []
    assert tell(tx, actor) == 1
    assert len(waiting(tx, made["id"])) == 1


def test_R254_enabling_clears_the_reason_and_the_clock(
    tx: Tx, actor: Actor, keeper: Endpoints
) -> None:
    made = make(tx, actor, keeper)
    row = endpoints.get(tx, W, made["id"])
    endpoints.note(tx, row, 7)
    endpoints.disable(tx, actor.clock, row, endpoints.REDIRECTED)
    disabled = endpoints.get(tx, W, made["id"])
    assert (disabled.state, disabled.disabled_reason) == ("disabled", endpoints.REDIRECTED)
    endpoints.disable(tx, actor.clock, disabled, endpoints.FAILING)
    assert endpoints.get(tx, W, made["id"]).disabled_reason == endpoints.REDIRECTED
    enabled = change(tx, actor, keeper, made, state="enabled")
    assert (enabled["state"], enabled["disabled_reason"]) == ("enabled", "")
    assert endpoints.get(tx, W, made["id"]).failing_since_us is None
    assert tell(tx, actor) == 1


def test_a_deleted_endpoint_leaves_nothing(tx: Tx, actor: Actor, keeper: Endpoints) -> None:
    made = make(tx, actor, keeper)
    tell(tx, actor)
    endpoints.remove(tx, actor, W, made["id"])
    assert waiting(tx, made["id"]) == []
    assert leases.next_ready_us(tx, outbox.QUEUE) is None
    assert tell(tx, actor) == 0
    with pytest.raises(NotFound):
        endpoints.get(tx, W, made["id"])


def test_a_scope_sees_its_own_endpoints_only(tx: Tx, actor: Actor, keeper: Endpoints) -> None:
    tx.execute(insert(workspaces).values(id="wrkspc_other", name="Other", created_us=0))
    mine = make(tx, actor, keeper)
    ours = make(tx, actor, keeper, "external_key.failed", workspace_id=None)
    for scope, own, other in ((W, mine, ours), (None, ours, mine)):
        assert [one["id"] for one in endpoints.find(tx, scope, Page(20))[0]] == [own["id"]]
        for act in (
            lambda s=scope, o=other: endpoints.get(tx, s, o["id"]),
            lambda s=scope, o=other: endpoints.remove(tx, actor, s, o["id"]),
            lambda s=scope, o=other: keeper.renew_secret(tx, actor, s, o["id"]),
            lambda s=scope, o=other: keeper.update(
                tx, actor, s, o["id"], WorkspaceEndpointUpdate(name="x")
            ),
        ):
            with pytest.raises(NotFound):
                act()
        with pytest.raises(InvalidRequest, match="after_id"):
            endpoints.find(tx, scope, Page(20, after_id=other["id"]))
    assert endpoints.find(tx, "wrkspc_other", Page(20)) == ([], False)


def test_R255_lists_walk_by_ids_in_either_order(tx: Tx, actor: Actor, keeper: Endpoints) -> None:
    made = [make(tx, actor, keeper)["id"] for _ in range(6)]
    newest = made[::-1]

    def ids(limit: int, **more: Any) -> tuple[list[str], bool]:
        found, beyond = endpoints.find(tx, W, Page(limit, **more))
        return [one["id"] for one in found], beyond

    assert ids(4) == (newest[:4], True)
    assert ids(4, after_id=newest[3]) == (newest[4:], False)
    assert ids(4, order="asc", after_id=made[1]) == (made[2:], False)
    # The first ones of the list, not the nearest.
    assert ids(2, before_id=newest[4]) == (newest[:2], True)
    assert ids(2, order="asc", before_id=made[4]) == (made[:2], True)
    assert ids(6, before_id=newest[2]) == (newest[:2], False)
    assert ids(2, before_id=newest[0]) == ([], False)
    with pytest.raises(InvalidRequest, match="not together"):
        ids(2, before_id=newest[0], after_id=newest[1])


def test_acts_are_recorded(tx: Tx, actor: Actor, keeper: Endpoints) -> None:
    made = make(tx, actor, keeper)
    change(tx, actor, keeper, made, url="https://b.example/x?token=abc")
    keeper.renew_secret(tx, actor, W, made["id"])
    row = endpoints.get(tx, W, made["id"])
    endpoints.disable(tx, actor.clock, row, endpoints.FAILING)
    endpoints.remove(tx, actor, W, made["id"])
    lines = "".join(audit.read_lines(tx))
    for act in ("create", "update", "regenerate_signing_secret", "disable", "delete"):
        assert f"webhook_endpoint.{act}" in lines
    assert "token=abc" not in lines
    assert tx.execute(select(webhook_endpoints)).all() == []
