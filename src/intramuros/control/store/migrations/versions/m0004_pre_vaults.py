"""Sealed secrets of vault credentials."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply it."""
    op.create_table(
        "vault_secrets",
        sa.Column("credential_id", sa.String(), nullable=False),
        sa.Column("vault_id", sa.String(), nullable=False),
        sa.Column("match_key", sa.String(), nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("locked_us", sa.BigInteger(), nullable=True),
        sa.Column("stopped", sa.Boolean(), nullable=False),
        sa.Column("failing", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["credential_id"], ["resources.id"], name=op.f("fk_vault_secrets_credential_id")
        ),
        sa.ForeignKeyConstraint(
            ["vault_id"], ["resources.id"], name=op.f("fk_vault_secrets_vault_id")
        ),
        sa.PrimaryKeyConstraint("credential_id", name=op.f("pk_vault_secrets")),
    )
    with op.batch_alter_table("vault_secrets", schema=None) as batch_op:
        batch_op.create_index("ix_vault_secrets_key", ["vault_id", "match_key"], unique=True)
