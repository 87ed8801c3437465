"""Who has steered a session, so that gateways can judge its calls by them."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Apply it."""
    op.add_column(
        "sessions", sa.Column("steered_by", sa.JSON(), nullable=False, server_default="[]")
    )
