"""SSH certificates are remembered for as long as somebody may be inside by them."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"

_INDEXES = {
    "session": ["session_id", "created_us", "serial"],
    "credential": ["credential_id"],
    "principal": ["principal_id"],
    "environment": ["environment_id"],
    "kind": ["environment_kind"],
    "forget": ["forget_us"],
}
_REVOKED = {"revoked": ["environment_id", "serial"], "revoked_kind": ["environment_kind", "serial"]}


def upgrade() -> None:
    """Apply it."""
    op.create_table(
        "ssh_certificates",
        sa.Column("serial", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("environment_kind", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("credential_id", sa.String(), nullable=False),
        sa.Column("principal_id", sa.String(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("forget_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.Column("revoked_why", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_ssh_certificates_workspace_id")
        ),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_ssh_certificates")),
    )
    for name, columns in _INDEXES.items():
        op.create_index(f"ix_ssh_certificates_{name}", "ssh_certificates", columns)
    revoked = sa.text("revoked_us IS NOT NULL")
    for name, columns in _REVOKED.items():
        op.create_index(
            f"ix_ssh_certificates_{name}",
            "ssh_certificates",
            columns,
            sqlite_where=revoked,
            postgresql_where=revoked,
        )
