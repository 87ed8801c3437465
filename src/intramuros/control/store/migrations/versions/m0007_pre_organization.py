"""Workspaces that can be configured and archived, their members, and keys that can be disabled."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0004"


def upgrade() -> None:
    """Apply it."""
    op.create_table(
        "spent_assertions",
        sa.Column("issuer_id", sa.String(), nullable=False),
        sa.Column("jti_digest", sa.String(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("issuer_id", "jti_digest", name=op.f("pk_spent_assertions")),
    )
    op.create_index("ix_spent_assertions_expires", "spent_assertions", ["expires_us"])
    with op.batch_alter_table("workspaces", schema=None) as batch_op:
        batch_op.add_column(sa.Column("archived_us", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("body", sa.JSON(), nullable=True))
    with op.batch_alter_table("credentials", schema=None) as batch_op:
        batch_op.add_column(sa.Column("disabled_us", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("hint", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("principal_id", sa.String(), nullable=True))
        batch_op.create_index("ix_credentials_principal", ["principal_id"], unique=False)
    op.create_table(
        "workspace_members",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("member_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=True),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_workspace_members_workspace_id"
        ),
        sa.ForeignKeyConstraint(
            ["member_id"], ["resources.id"], name="fk_workspace_members_member_id"
        ),
        sa.PrimaryKeyConstraint("workspace_id", "member_id", name=op.f("pk_workspace_members")),
    )
    op.create_index("ix_workspace_members_member", "workspace_members", ["member_id", "created_us"])
