"""People: users, invites, groups and who belongs to which workspace; and the compliance feed."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0014"


def upgrade() -> None:
    """Apply it."""
    with op.batch_alter_table("credentials", schema=None) as batch_op:
        batch_op.add_column(sa.Column("created_by", sa.String(), nullable=True))
        batch_op.create_index("ix_credentials_creator", ["created_by"], unique=False)
    _people()
    _groups()
    _activities()


def _people() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("email_key", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("removed_us", sa.BigInteger(), nullable=True),
        sa.Column("signed_out_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    here = sa.text("removed_us IS NULL")
    op.create_index("ix_users_list", "users", ["created_us", "id"])
    op.create_index(
        "ix_users_email",
        "users",
        ["email_key"],
        unique=True,
        sqlite_where=here,
        postgresql_where=here,
    )
    op.create_table(
        "invites",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("email_key", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("group_ids", sa.JSON(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("accepted_us", sa.BigInteger(), nullable=True),
        sa.Column("deleted_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invites")),
    )
    op.create_index("ix_invites_list", "invites", ["created_us", "id"])
    op.create_index("ix_invites_email", "invites", ["email_key"])
    op.create_table(
        "user_workspaces",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_user_workspaces_workspace_id"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_user_workspaces_user_id"),
        sa.PrimaryKeyConstraint("workspace_id", "user_id", name=op.f("pk_user_workspaces")),
    )
    op.create_index("ix_user_workspaces_user", "user_workspaces", ["user_id"])


def _groups() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role_ids", sa.JSON(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
    )
    op.create_index("ix_groups_list", "groups", ["created_us", "id"])
    op.create_table(
        "group_members",
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name="fk_group_members_group_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_group_members_user_id"),
        sa.PrimaryKeyConstraint("group_id", "user_id", name=op.f("pk_group_members")),
    )
    op.create_index("ix_group_members_list", "group_members", ["group_id", "created_us", "user_id"])
    op.create_index("ix_group_members_user", "group_members", ["user_id"])


def _activities() -> None:
    op.create_table(
        "compliance",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_compliance")),
    )
    op.create_table(
        "activities",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("actor_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["seq"], ["audit.seq"], name="fk_activities_seq"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_activities")),
    )
    op.create_index("ix_activities_time", "activities", ["at_us", "seq"])
    op.create_index("ix_activities_type", "activities", ["type", "at_us", "seq"])
    op.create_index("ix_activities_actor", "activities", ["actor_id", "at_us", "seq"])
