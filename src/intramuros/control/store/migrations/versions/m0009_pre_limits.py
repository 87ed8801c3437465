"""Rate limits, spend limits, usage by the minute, and destinations of traces."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_COUNTED = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")


def upgrade() -> None:
    """Apply it."""
    op.create_table(
        "rate_limits",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("limiter", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_rate_limits_workspace_id"
        ),
        sa.PrimaryKeyConstraint("workspace_id", "group_id", "limiter", name=op.f("pk_rate_limits")),
    )
    op.create_table(
        "spend_limits",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("scope_key", sa.String(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("cents", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spend_limits")),
    )
    op.create_index("ix_spend_limits_scope", "spend_limits", ["scope_key", "period"], unique=True)
    op.create_table(
        "spend_days",
        sa.Column("scope_key", sa.String(), nullable=False),
        sa.Column("day_us", sa.BigInteger(), nullable=False),
        sa.Column("nanocents", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope_key", "day_us", name=op.f("pk_spend_days")),
    )
    _usage()
    _telemetry()


def _usage() -> None:
    key = (
        "workspace_id",
        "model",
        "api_key_id",
        "service_account_id",
        "speed",
        "service_tier",
        "context_window",
        "inference_geo",
    )
    counts = [name for kind in _COUNTED for name in (kind, f"{kind}_nanocents")]
    op.create_table(
        "usage_minutes",
        sa.Column("minute_us", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in key),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in (*counts, "web_searches", "web_search_nanocents")
        ),
        sa.PrimaryKeyConstraint("minute_us", *key, name=op.f("pk_usage_minutes")),
    )


def _telemetry() -> None:
    op.create_table(
        "telemetry_destinations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("coverage", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("disabled", sa.String(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("sent_seq", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.Column("failing_us", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("last_error_us", sa.BigInteger(), nullable=True),
        sa.Column("last_success_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_telemetry_destinations")),
    )
    op.create_table(
        "telemetry_workspaces",
        sa.Column("destination_id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["destination_id"],
            ["telemetry_destinations.id"],
            name="fk_telemetry_workspaces_destination_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_telemetry_workspaces_workspace_id"
        ),
        sa.PrimaryKeyConstraint(
            "destination_id", "workspace_id", name=op.f("pk_telemetry_workspaces")
        ),
    )
    op.create_table(
        "telemetry_spans",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("span", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_telemetry_spans")),
        sqlite_autoincrement=True,
    )
