"""Tokens of repositories that sessions and deployments mount."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0010"


def upgrade() -> None:
    """Apply it."""
    op.create_table(
        "repository_tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("deployment_id", sa.String(), nullable=True),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name=op.f("fk_repository_tokens_session_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["deployment_id"],
            ["resources.id"],
            name=op.f("fk_repository_tokens_deployment_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_repository_tokens")),
    )
    with op.batch_alter_table("repository_tokens", schema=None) as batch_op:
        batch_op.create_index("ix_repository_tokens_session", ["session_id"], unique=False)
        batch_op.create_index("ix_repository_tokens_deployment", ["deployment_id"], unique=False)
