"""Dreams that are not archived, newest first, however many are."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Apply it."""
    op.create_index("ix_dreams_live", "dreams", ["workspace_id", "archived_us", "created_us", "id"])
