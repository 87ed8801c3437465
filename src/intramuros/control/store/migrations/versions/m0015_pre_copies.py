"""Blobs that several files share: a session's copies take no room of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0005"


def upgrade() -> None:
    """Apply it."""
    # SQLite has no other way to change a primary key.
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    with op.batch_alter_table(
        "blobs", schema=None, recreate="always" if on_sqlite else "never"
    ) as batch_op:
        batch_op.drop_constraint("pk_blobs", type_="primary")
        batch_op.create_primary_key("pk_blobs", ["key", "owner_id"])
        batch_op.add_column(
            sa.Column("counted", sa.Boolean(), server_default=sa.true(), nullable=False)
        )
