"""The tables of limits, usage and traces; as in ``tables.py``, in the same schema."""

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

# What a workspace may use of a rate-limit group, where that is not the organization's own limit.
rate_limits = Table(
    "rate_limits",
    metadata,
    Column("workspace_id", String, ForeignKey("workspaces.id"), primary_key=True),
    Column("group_id", String, primary_key=True),
    Column("limiter", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# Caps on spending; ``scope_key`` is a workspace, or "organization".
spend_limits = Table(
    "spend_limits",
    metadata,
    Column("id", String, primary_key=True),
    Column("scope_key", String, nullable=False),
    Column("period", String, nullable=False),  # daily, weekly, monthly
    Column("cents", BigInteger),  # none: no limit, said on purpose
    Column("created_us", BigInteger, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
    Index("ix_spend_limits_scope", "scope_key", "period", unique=True),
)

# What models cost at list price on a day (UTC), in billionths of a cent; scopes as above.
spend_days = Table(
    "spend_days",
    metadata,
    Column("scope_key", String, primary_key=True),
    Column("day_us", BigInteger, primary_key=True),
    Column("nanocents", BigInteger, nullable=False),
)

# What models were used for, by the minute (UTC). Members of the key that are unknown are empty.
usage_minutes = Table(
    "usage_minutes",
    metadata,
    Column("minute_us", BigInteger, primary_key=True),
    Column("workspace_id", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("api_key_id", String, primary_key=True),
    Column("service_account_id", String, primary_key=True),
    Column("speed", String, primary_key=True),
    Column("service_tier", String, primary_key=True),
    Column("context_window", String, primary_key=True),
    Column("inference_geo", String, primary_key=True),
    *(
        Column(name, BigInteger, nullable=False)
        for kind in ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
        for name in (kind, f"{kind}_nanocents")
    ),
    Column("web_searches", BigInteger, nullable=False),
    Column("web_search_nanocents", BigInteger, nullable=False),
)

# Collectors that get traces. ``config`` is what is shown; header values lie sealed.
telemetry_destinations = Table(
    "telemetry_destinations",
    metadata,
    Column("id", String, primary_key=True),
    Column("config", JSON, nullable=False),
    Column("coverage", String, nullable=False),  # all, include, exclude
    Column("sealed", LargeBinary, nullable=False),  # header values
    Column("disabled", String),  # why; none while it is enabled
    Column("created_us", BigInteger, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),  # grows with every change
    Column("sent_seq", BigInteger, nullable=False),  # spans up to here are done with
    Column("attempts", Integer, nullable=False),  # at the spans after those
    Column("due_us", BigInteger, nullable=False),  # not before
    Column("failing_us", BigInteger),  # since when every delivery failed
    Column("last_error", String),
    Column("last_error_us", BigInteger),
    Column("last_success_us", BigInteger),
)

# The list of a destination that includes or excludes workspaces.
telemetry_workspaces = Table(
    "telemetry_workspaces",
    metadata,
    Column(
        "destination_id",
        String,
        ForeignKey("telemetry_destinations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("workspace_id", String, ForeignKey("workspaces.id"), primary_key=True),
    Column("created_us", BigInteger, nullable=False),
)

# Finished spans on their way to destinations; numbers are never given twice.
telemetry_spans = Table(
    "telemetry_spans",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("workspace_id", String, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("span", JSON, nullable=False),
    sqlite_autoincrement=True,
)
