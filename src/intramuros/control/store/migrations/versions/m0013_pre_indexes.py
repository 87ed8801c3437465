"""Indexes for every list, so that none looks at more rows than it shows."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0009"


def upgrade() -> None:
    """Apply it."""
    with op.batch_alter_table("resources", schema=None) as batch_op:
        batch_op.add_column(sa.Column("sort_key", sa.String(), nullable=True))
    with op.batch_alter_table("memory_attachments", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("created_us", sa.BigInteger(), nullable=False, server_default="0")
        )
    resources = sa.table(
        "resources", sa.column("kind"), sa.column("body", sa.JSON), sa.column("sort_key")
    )
    name = resources.c.body["name"].as_string()
    op.execute(
        resources.update()
        .where(resources.c.kind == "user_profile")
        .values(sort_key=sa.func.lower(name))
    )
    op.execute(
        "UPDATE memory_attachments SET created_us = (SELECT created_us FROM sessions"
        " WHERE sessions.id = memory_attachments.session_id)"
    )
    with op.batch_alter_table("memory_attachments", schema=None) as batch_op:
        batch_op.alter_column("created_us", server_default=None)
    for table, name in _REPLACED:
        op.drop_index(name, table)
    for table, name, *columns in _INDEXES:
        op.create_index(name, table, columns)
    op.create_index(
        "ix_leases_served",
        "leases",
        ["expires_us"],
        sqlite_where=_SERVED,
        postgresql_where=_SERVED,
    )


_SERVED = sa.text("state IN ('starting', 'active', 'stopping')")
_REPLACED = (
    ("credentials", "ix_credentials_environment"),
    ("resources", "ix_resources_parent"),
    ("sessions", "ix_sessions_agent"),
    ("memory_attachments", "ix_memory_attachments_store"),
    ("memory_versions", "ix_memory_versions_memory"),
    ("leases", "ix_leases_key"),
)
_BY_TIME = ("created_us", "id")
_INDEXES = (
    ("credentials", "ix_credentials_environment", "environment_id", "kind", *_BY_TIME),
    ("credentials", "ix_credentials_list", "workspace_id", "kind", *_BY_TIME),
    ("credentials", "ix_credentials_kind", "kind", *_BY_TIME),
    ("resources", "ix_resources_name", "workspace_id", "kind", "sort_key", "id"),
    ("resources", "ix_resources_parent", "parent_id", "workspace_id", "kind", *_BY_TIME),
    ("sessions", "ix_sessions_agent", "agent_id", *_BY_TIME),
    ("sessions", "ix_sessions_status", "workspace_id", "status", *_BY_TIME),
    ("memory_attachments", "ix_memory_attachments_list", "store_id", "created_us", "session_id"),
    ("memory_versions", "ix_memory_versions_memory", "memory_id", "store_id", *_BY_TIME),
    ("memory_versions", "ix_memory_versions_operation", "store_id", "operation", *_BY_TIME),
    (
        "memory_versions",
        "ix_memory_versions_author",
        "store_id",
        "author_kind",
        "author_id",
        *_BY_TIME,
    ),
    ("leases", "ix_leases_key", "queue", "key", *_BY_TIME),
    ("leases", "ix_leases_list", "queue", *_BY_TIME),
    ("resources", "ix_resources_live", "workspace_id", "kind", "archived_us", *_BY_TIME),
    (
        "resources",
        "ix_resources_live_parent",
        "parent_id",
        "workspace_id",
        "kind",
        "archived_us",
        *_BY_TIME,
    ),
    ("sessions", "ix_sessions_live", "workspace_id", "archived_us", *_BY_TIME),
    ("sessions", "ix_sessions_live_agent", "agent_id", "archived_us", *_BY_TIME),
)
