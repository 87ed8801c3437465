"""Deployments, their runs, and the sessions that those create."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0012"

_BY_TIME = ("created_us", "id")


def upgrade() -> None:
    """Apply it."""
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("deployment_id", sa.String(), nullable=True))
    _index("sessions", "deployment", "deployment_id", *_BY_TIME)
    _index("sessions", "live_deployment", "deployment_id", "archived_us", *_BY_TIME)
    _deployments()
    _runs()


def _deployments() -> None:
    table = "deployments"
    op.create_table(
        table,
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("scheduled", sa.Boolean(), nullable=False),
        sa.Column("next_us", sa.BigInteger(), nullable=True),
        sa.Column("last_run_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("archived_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["id"], ["resources.id"], name=op.f("fk_deployments_id")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_deployments_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
    )
    _index(table, "list", "workspace_id", *_BY_TIME)
    _index(table, "live", "workspace_id", "archived_us", *_BY_TIME)
    _index(table, "status", "workspace_id", "paused", "archived_us", *_BY_TIME)
    _index(table, "agent", "agent_id", *_BY_TIME)
    _index(table, "live_agent", "agent_id", "archived_us", *_BY_TIME)
    _index(table, "scheduled", "scheduled", "id")


def _runs() -> None:
    table = "deployment_runs"
    op.create_table(
        table,
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("deployment_id", sa.String(), nullable=False),
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.Column("agent_version", sa.Integer(), nullable=False),
        sa.Column("trigger_type", sa.String(), nullable=False),
        sa.Column("scheduled_us", sa.BigInteger(), nullable=True),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("error_type", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_deployment_runs_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment_runs")),
    )
    _index(table, "list", "workspace_id", *_BY_TIME)
    _index(table, "failed", "workspace_id", "failed", *_BY_TIME)
    _index(table, "trigger", "workspace_id", "trigger_type", *_BY_TIME)
    _index(table, "of", "deployment_id", *_BY_TIME)
    _index(table, "failed_of", "deployment_id", "failed", *_BY_TIME)
    _index(table, "once", "deployment_id", "scheduled_us", unique=True)


def _index(table: str, name: str, *columns: str, unique: bool = False) -> None:
    op.create_index(f"ix_{table}_{name}", table, list(columns), unique=unique)
