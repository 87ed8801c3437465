"""What waits for a worker, over all queues."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0006"


def upgrade() -> None:
    """Apply it."""
    op.create_index(
        "ix_leases_waiting",
        "leases",
        ["available_us", "id"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
