"""The tables of webhooks; as in ``tables.py``, in the same schema."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
)

from intramuros.control.store.tables import metadata

# Where webhooks are sent; without a workspace, the organization's own.
webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", String, primary_key=True),
    Column("workspace_id", String, ForeignKey("workspaces.id")),
    Column("url", String, nullable=False),
    Column("name", String, nullable=False),
    Column("description", String, nullable=False),
    Column("enabled_events", JSON, nullable=False),
    Column("state", String, nullable=False),  # enabled, disabled
    Column("disabled_reason", String, nullable=False),  # empty unless the server disabled it
    Column("secret", LargeBinary, nullable=False),  # the signing key, by the master key
    Column("failing_since_us", BigInteger),  # the first failure since the last success
    Column("created_us", BigInteger, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
    Index("ix_webhook_endpoints_list", "workspace_id", "created_us", "id"),
)

# Who wants to hear of what; of enabled endpoints only. A scope is a workspace or the organization.
webhook_subscriptions = Table(
    "webhook_subscriptions",
    metadata,
    Column("scope", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column(
        "endpoint_id",
        String,
        ForeignKey("webhook_endpoints.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Index("ix_webhook_subscriptions_endpoint", "endpoint_id"),
)

# What happened, for as long as somebody is still to be told of it (store/outbox.py).
webhook_events = Table(
    "webhook_events",
    metadata,
    Column("id", String, primary_key=True),
    Column("data", JSON, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

# One event on its way to one endpoint; the row goes when it has arrived or is given up.
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column(
        "endpoint_id",
        String,
        ForeignKey("webhook_endpoints.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("event_id", String, ForeignKey("webhook_events.id"), primary_key=True),
    Column("attempts", Integer, nullable=False),  # begun so far
    Column("due_us", BigInteger, nullable=False),
    Index("ix_webhook_deliveries_due", "endpoint_id", "due_us"),
    Index("ix_webhook_deliveries_event", "event_id"),
)
