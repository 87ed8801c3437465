"""Indexes of a column that most rows do not set hold only the rows that set it."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

_BY_TIME = ("created_us", "id")
_INDEXES = (
    ("resources", "ix_resources_parent", "parent_id", "workspace_id", "kind", *_BY_TIME),
    (
        "resources",
        "ix_resources_live_parent",
        "parent_id",
        "workspace_id",
        "kind",
        "archived_us",
        *_BY_TIME,
    ),
    ("sessions", "ix_sessions_deployment", "deployment_id", *_BY_TIME),
    ("sessions", "ix_sessions_live_deployment", "deployment_id", "archived_us", *_BY_TIME),
    ("audit", "ix_audit_session", "session_id", "seq"),
)


def upgrade() -> None:
    """Apply it."""
    for table, name, *columns in _INDEXES:
        op.drop_index(name, table)
        where = sa.text(f"{columns[0]} IS NOT NULL")
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
