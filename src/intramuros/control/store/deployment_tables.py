"""The tables of deployments and their runs; as in ``tables.py``, in the same schema."""

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, Table

from intramuros.control.store.tables import metadata

# What is found and counted of deployments, and where each one's schedule stands; the configuration
# is in ``resources``. ``next_us`` is the first nominal time that has not been dealt with; a row in
# the queue ``deployment`` wakes a scheduler for it.
deployments = Table(
    "deployments",
    metadata,
    Column("id", String, ForeignKey("resources.id"), primary_key=True),
    Column("workspace_id", String, ForeignKey("workspaces.id"), nullable=False),
    Column("agent_id", String, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("scheduled", Boolean, nullable=False),  # has a schedule and is not archived
    Column("next_us", BigInteger),  # none while paused
    Column("last_run_us", BigInteger),  # when the newest scheduled run started
    Column("created_us", BigInteger, nullable=False),
    Column("archived_us", BigInteger),
    Index("ix_deployments_list", "workspace_id", "created_us", "id"),
    Index("ix_deployments_live", "workspace_id", "archived_us", "created_us", "id"),
    Index("ix_deployments_status", "workspace_id", "paused", "archived_us", "created_us", "id"),
    Index("ix_deployments_agent", "agent_id", "created_us", "id"),
    Index("ix_deployments_live_agent", "agent_id", "archived_us", "created_us", "id"),
    Index("ix_deployments_scheduled", "scheduled", "id"),
)

# Each attempt to start a session of a deployment; rows are only ever inserted. It outlives the
# session and the deployment that it names.
deployment_runs = Table(
    "deployment_runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("workspace_id", String, ForeignKey("workspaces.id"), nullable=False),
    Column("deployment_id", String, nullable=False),
    Column("agent_id", String, nullable=False),
    Column("agent_version", Integer, nullable=False),
    Column("trigger_type", String, nullable=False),  # schedule, manual
    Column("scheduled_us", BigInteger),  # the nominal time; none for a manual run
    Column("failed", Boolean, nullable=False),
    Column("session_id", String),  # or an error
    Column("error_type", String),
    Column("error_message", String),
    Column("created_us", BigInteger, nullable=False),
    Index("ix_deployment_runs_list", "workspace_id", "created_us", "id"),
    Index("ix_deployment_runs_failed", "workspace_id", "failed", "created_us", "id"),
    Index("ix_deployment_runs_trigger", "workspace_id", "trigger_type", "created_us", "id"),
    Index("ix_deployment_runs_of", "deployment_id", "created_us", "id"),
    Index("ix_deployment_runs_failed_of", "deployment_id", "failed", "created_us", "id"),
    # At most one run for each nominal time (contract-2 R221), whoever fires.
    Index("ix_deployment_runs_once", "deployment_id", "scheduled_us", unique=True),
)
