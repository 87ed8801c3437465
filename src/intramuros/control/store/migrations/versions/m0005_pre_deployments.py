"""Deployments, their runs, and the sessions that those create."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0014"


def upgrade() -> None:
    """Apply it."""
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("deployment_id", sa.String(), nullable=True))
        batch_op.create_index("ix_sessions_deployment", ["deployment_id", "created_us", "id"])
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("scheduled", sa.Boolean(), nullable=False),
        sa.Column("next_us", sa.BigInteger(), nullable=True),
        sa.Column("last_run_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["id"], ["resources.id"], name=op.f("fk_deployments_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
    )
    op.create_index("ix_deployments_agent", "deployments", ["agent_id"])
    op.create_index("ix_deployments_scheduled", "deployments", ["scheduled", "id"])
    _runs()


def _runs() -> None:
    table = "deployment_runs"
    op.create_table(
        table,
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("deployment_id", sa.String(), nullable=False),
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.Column("agent_version", sa.Integer(), nullable=False),
        sa.Column("scheduled_us", sa.BigInteger(), nullable=True),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("error_type", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_deployment_runs_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment_runs")),
    )
    op.create_index("ix_deployment_runs_list", table, ["workspace_id", "created_us", "id"])
    op.create_index("ix_deployment_runs_of", table, ["deployment_id", "created_us", "id"])
    op.create_index(
        "ix_deployment_runs_once", table, ["deployment_id", "scheduled_us"], unique=True
    )
    failed = sa.text("error_type IS NOT NULL")
    op.create_index(
        "ix_deployment_runs_failed",
        table,
        ["workspace_id", "created_us", "id"],
        sqlite_where=failed,
        postgresql_where=failed,
    )
