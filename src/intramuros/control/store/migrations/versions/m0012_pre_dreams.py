"""Dreams, the memories they know of, and what their sessions refer to."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0013"


def upgrade() -> None:
    """Apply it."""
    op.create_table(
        "dreams",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("store_id", sa.String(), nullable=False),
        sa.Column("session_ids", sa.JSON(), nullable=False),
        sa.Column("model", sa.JSON(), nullable=False),
        sa.Column("instructions", sa.String(), nullable=True),
        sa.Column("updates", sa.Boolean(), nullable=False),
        sa.Column("output_id", sa.String(), nullable=True),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("usage", sa.JSON(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=True),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("stopped_us", sa.BigInteger(), nullable=True),
        sa.Column("archived_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_dreams_workspace_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dreams")),
        sa.UniqueConstraint("session_id", name="uq_dreams_session_id"),
    )
    op.create_index("ix_dreams_list", "dreams", ["workspace_id", "created_us", "id"])
    op.create_index("ix_dreams_store", "dreams", ["store_id", "stopped_us"])
    op.create_table(
        "dream_memories",
        sa.Column("dream_id", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("found_version_id", sa.String(), nullable=True),
        sa.Column("seen_version_id", sa.String(), nullable=True),
        sa.Column("seen_part", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["dream_id"], ["dreams.id"], name="fk_dream_memories_dream_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("dream_id", "path", name=op.f("pk_dream_memories")),
    )
    op.create_table(
        "dream_homes",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_dream_homes_workspace_id"
        ),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_dream_homes")),
    )
