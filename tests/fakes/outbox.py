"""Endpoints that listen, straight in the tables, and what the outbox holds for them."""

from typing import Any

from sqlalchemy import insert, select

from intramuros.control.store import outbox
from intramuros.control.store.db import Tx
from intramuros.control.store.webhook_tables import (
    webhook_deliveries,
    webhook_endpoints,
    webhook_events,
    webhook_subscriptions,
)


def listen(
    tx: Tx, *kinds: str, workspace_id: str | None = "wrkspc_test", endpoint_id: str = "whep_1"
) -> str:
    """Put an enabled endpoint there that is subscribed to these kinds, and return its id."""
    tx.execute(
        insert(webhook_endpoints).values(
            id=endpoint_id,
            workspace_id=workspace_id,
            url="https://hooks.example/in",
            name="",
            description="",
            enabled_events=list(kinds),
            state="enabled",
            disabled_reason="",
            secret=b"",
            created_us=0,
            updated_us=0,
        )
    )
    for kind in kinds:
        scope = workspace_id or outbox.ORGANIZATION
        row = {"scope": scope, "kind": kind, "endpoint_id": endpoint_id}
        tx.execute(insert(webhook_subscriptions).values(**row))
    return endpoint_id


def waiting(tx: Tx, endpoint_id: str = "whep_1") -> list[dict[str, Any]]:
    """Return the data of every event that waits for an endpoint, in the order it happened."""
    return list(
        tx.execute(
            select(webhook_events.c.data)
            .join(webhook_deliveries, webhook_deliveries.c.event_id == webhook_events.c.id)
            .where(webhook_deliveries.c.endpoint_id == endpoint_id)
            .order_by(webhook_events.c.at_us, webhook_events.c.id)
        ).scalars()
    )


def told(tx: Tx, endpoint_id: str = "whep_1") -> list[str]:
    """Return the kinds of every event that waits for an endpoint, sorted: there is no order."""
    return sorted(data["type"] for data in waiting(tx, endpoint_id))
