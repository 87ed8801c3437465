"""Webhook endpoints: how they are configured and shown (contract-2 R249 to R257).

An endpoint belongs to a workspace, or to the organization. Its signing secret is sealed by the
master key and shown once. Disabling one, by whomever, drops what was waiting for it: nothing missed
is sent later (R254).
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update

from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store import deliveries, leases, outbox
from intramuros.control.store.db import Tx
from intramuros.control.store.keyset import beyond
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.webhook_tables import webhook_endpoints, webhook_subscriptions
from intramuros.control.webhooks.addresses import Policy
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import Clock, from_micros, rfc3339, to_micros
from intramuros.protocol.resources.webhooks import (
    OrganizationEndpointCreate,
    OrganizationEndpointUpdate,
    WorkspaceEndpointCreate,
    WorkspaceEndpointUpdate,
)

Shown = dict[str, Any]
Create = WorkspaceEndpointCreate | OrganizationEndpointCreate
Update = WorkspaceEndpointUpdate | OrganizationEndpointUpdate

MAX_ENDPOINTS: Final = 32
SECRET_BYTES: Final = 32
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  a prefix, not a secret
# What the server says when it disables an endpoint by itself.
REDIRECTED: Final = "auto-disabled: endpoint URL returned a redirect (3xx)"
NOT_PUBLIC: Final = "auto-disabled: endpoint URL resolved to an invalid address"
FAILING: Final = "auto-disabled after sustained delivery failures"

_ENABLED: Final = "enabled"
_DISABLED: Final = "disabled"
_TABLE: Final = webhook_endpoints.c


@dataclass(frozen=True)
class Page:
    """Which endpoints to list; ``before_id`` gives the first ones of the list (R255)."""

    limit: int
    order: Literal["asc", "desc"] = "desc"
    after_id: str | None = None
    before_id: str | None = None


@dataclass(frozen=True)
class Endpoints:
    """What callers may do with endpoints; ``workspace_id`` None means the organization's own.

    Args:
        sealer: of the master key.
        randbytes: where secrets come from.
        policy: where webhooks may go.
    """

    sealer: Sealer
    randbytes: Callable[[int], bytes]
    policy: Policy

    def create(
        self, tx: Tx, actor: Actor, workspace_id: str | None, request: Create
    ) -> tuple[Shown, str]:
        """Store a new endpoint and return it, and its secret.

        Raises:
            InvalidRequest: a URL that webhooks may not go to, or too many endpoints (R251).
        """
        self.policy.check(request.url)
        held = select(func.count()).where(_of(workspace_id))
        if (tx.scalar(held) or 0) >= MAX_ENDPOINTS:
            raise InvalidRequest(
                f"there are {MAX_ENDPOINTS} webhook endpoints, disabled ones included; delete one"
            )
        endpoint_id, secret = actor.ids.new("whep"), self._new_secret()
        now_us = to_micros(actor.clock.now())
        values = {
            "url": request.url,
            "name": request.name,
            "description": request.description,
            "enabled_events": list(dict.fromkeys(request.enabled_events)),
        }
        _audit(tx, actor, "create", workspace_id, endpoint_id, values)
        tx.execute(
            insert(webhook_endpoints).values(
                id=endpoint_id,
                workspace_id=workspace_id,
                state=_ENABLED,
                disabled_reason="",
                secret=self._seal(endpoint_id, secret),
                created_us=now_us,
                updated_us=now_us,
                **values,
            )
        )
        row = find_row(tx, endpoint_id)
        _subscribe(tx, row)
        return present(row), secret

    def update(
        self,
        tx: Tx,
        actor: Actor,
        workspace_id: str | None,
        endpoint_id: str,
        request: Update,
    ) -> Shown:
        """Change an endpoint; what was not sent stays, and the events for an empty list (R253).

        Raises:
            NotFound: no such endpoint here.
            InvalidRequest: a URL that webhooks may not go to.
        """
        row = get(tx, workspace_id, endpoint_id)
        sent = {name: getattr(request, name) for name in request.model_fields_set}
        events = list(dict.fromkeys(sent.pop("enabled_events", ())))
        if events:
            sent["enabled_events"] = events
        if "url" in sent:
            self.policy.check(sent["url"])
            # Another place has not failed yet.
            if sent["url"] != row.url:
                sent["failing_since_us"] = None
        if sent.get("state") == _ENABLED:
            sent |= {"disabled_reason": "", "failing_since_us": None}
        changes = {name: value for name, value in sent.items() if value != row._mapping[name]}
        if not changes:
            return present(row)
        _audit(tx, actor, "update", workspace_id, endpoint_id, changes)
        row = _change(tx, actor.clock, row, changes)
        _subscribe(tx, row)
        return present(row)

    def renew_secret(self, tx: Tx, actor: Actor, workspace_id: str | None, endpoint_id: str) -> str:
        """Return a new secret; from now on nothing is signed with the old one (R256).

        Raises:
            NotFound: no such endpoint here.
        """
        row, secret = get(tx, workspace_id, endpoint_id), self._new_secret()
        _audit(tx, actor, "regenerate_signing_secret", workspace_id, endpoint_id, {})
        _change(tx, actor.clock, row, {"secret": self._seal(endpoint_id, secret)})
        return secret

    def open_secret(self, row: Row[Any]) -> str:
        """Return an endpoint's secret, to sign with.

        Raises:
            OperatorError: it was sealed by another master key, or is damaged.
        """
        return self.sealer.open(deliveries.secret_name(row.id), row.secret).decode()

    def _new_secret(self) -> str:
        return SECRET_PREFIX + base64.b64encode(self.randbytes(SECRET_BYTES)).decode()

    def _seal(self, endpoint_id: str, secret: str) -> bytes:
        return self.sealer.seal(deliveries.secret_name(endpoint_id), secret.encode())


def get(tx: Tx, workspace_id: str | None, endpoint_id: str) -> Row[Any]:
    """Return an endpoint of this scope.

    Raises:
        NotFound: there is none.
    """
    row = tx.execute(
        select(webhook_endpoints).where(_of(workspace_id), _TABLE.id == endpoint_id)
    ).first()
    if row is None:
        raise NotFound(f"no webhook endpoint {endpoint_id[:80]!r}")
    return row


def find_row(tx: Tx, endpoint_id: str) -> Row[Any]:
    """Return an endpoint that is there, whose scope is nobody's question."""
    return tx.execute(select(webhook_endpoints).where(_TABLE.id == endpoint_id)).one()


def find(tx: Tx, workspace_id: str | None, page: Page) -> tuple[list[Shown], bool]:
    """Return a page of a scope's endpoints and whether there is more behind it (R255).

    Raises:
        InvalidRequest: both positions, or one that is no endpoint's.
    """
    if page.after_id is not None and page.before_id is not None:
        raise InvalidRequest("after_id: not together with before_id")
    ascending = page.order == "asc"
    conditions = [_of(workspace_id)]
    for name, position in (("after_id", page.after_id), ("before_id", page.before_id)):
        if position is not None:
            row = _position(tx, workspace_id, name, position)
            conditions.append(_beyond(row, later=ascending == (name == "after_id")))
    keys = (_TABLE.created_us, _TABLE.id)
    rows = tx.execute(
        select(webhook_endpoints)
        .where(*conditions)
        .order_by(*(key.asc() if ascending else key.desc() for key in keys))
        .limit(page.limit + 1)
    ).all()
    return [present(row) for row in rows[: page.limit]], len(rows) > page.limit


def remove(tx: Tx, actor: Actor, workspace_id: str | None, endpoint_id: str) -> None:
    """Delete an endpoint with whatever was on its way to it.

    Raises:
        NotFound: no such endpoint here.
    """
    row = get(tx, workspace_id, endpoint_id)
    _audit(tx, actor, "delete", workspace_id, endpoint_id, {})
    deliveries.drop_all(tx, row.id)
    tx.execute(delete(webhook_endpoints).where(_TABLE.id == row.id))
    leases.drop(tx, outbox.QUEUE, row.id)


def disable(tx: Tx, clock: Clock, row: Row[Any], reason: str) -> None:
    """Disable an endpoint because of how it behaves; once it is, nothing changes."""
    if row.state == _DISABLED:
        return
    fields = {"id": row.id, "reason": reason}
    audit.record(
        tx, clock, "webhook_endpoint.disable", workspace_id=row.workspace_id, fields=fields
    )
    _subscribe(tx, _change(tx, clock, row, {"state": _DISABLED, "disabled_reason": reason}))


def note(tx: Tx, row: Row[Any], failing_since_us: int | None) -> None:
    """Keep since when deliveries to an endpoint have failed without a success between (R275)."""
    if row.failing_since_us != failing_since_us:
        tx.execute(
            update(webhook_endpoints)
            .where(_TABLE.id == row.id)
            .values(failing_since_us=failing_since_us)
        )


def present(row: Row[Any]) -> Shown:
    """Return the endpoint as answers show it, without its secret (R252)."""
    return {
        "id": row.id,
        "created_at": rfc3339(from_micros(row.created_us)),
        "description": row.description,
        "disabled_reason": row.disabled_reason,
        "enabled_events": row.enabled_events,
        "name": row.name,
        "state": row.state,
        "updated_at": rfc3339(from_micros(row.updated_us)),
        "url": row.url,
    }


def _change(tx: Tx, clock: Clock, row: Row[Any], changes: Mapping[str, object]) -> Row[Any]:
    now_us = max(to_micros(clock.now()), row.updated_us)
    tx.execute(
        update(webhook_endpoints).where(_TABLE.id == row.id).values(**changes, updated_us=now_us)
    )
    return find_row(tx, row.id)


def _subscribe(tx: Tx, row: Row[Any]) -> None:
    """Make the subscriptions those of the row; a disabled endpoint has none and awaits nothing."""
    tx.execute(delete(webhook_subscriptions).where(webhook_subscriptions.c.endpoint_id == row.id))
    if row.state == _DISABLED:
        deliveries.drop_all(tx, row.id)
        return
    scope = row.workspace_id or outbox.ORGANIZATION
    tx.execute(
        insert(webhook_subscriptions),
        [{"scope": scope, "kind": kind, "endpoint_id": row.id} for kind in row.enabled_events],
    )


def _of(workspace_id: str | None) -> ColumnElement[bool]:
    column = _TABLE.workspace_id
    return column.is_(None) if workspace_id is None else column == workspace_id


def _position(tx: Tx, workspace_id: str | None, name: str, endpoint_id: str) -> Row[Any]:
    try:
        return get(tx, workspace_id, endpoint_id)
    except NotFound as error:
        raise InvalidRequest(f"{name}: no such object; start again without it") from error


def _beyond(row: Row[Any], *, later: bool) -> ColumnElement[bool]:
    keys = (_TABLE.created_us, _TABLE.id)
    return beyond(keys, (row.created_us, row.id), ascending=later)


def _audit(
    tx: Tx,
    actor: Actor,
    act: str,
    workspace_id: str | None,
    endpoint_id: str,
    changes: Mapping[str, object],
) -> None:
    fields: dict[str, object] = {"id": endpoint_id, "by": actor.by, "fields": sorted(changes)}
    if "url" in changes:
        fields["host"] = urlsplit(str(changes["url"])).hostname
    kind = f"webhook_endpoint.{act}"
    audit.record(tx, actor.clock, kind, workspace_id=workspace_id, fields=fields)
