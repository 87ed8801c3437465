"""The tables of dreams; as in ``tables.py``, in the same schema."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, Table

from intramuros.control.store.tables import metadata

# Jobs that turn sessions and a memory store into a better store (control/dreams).
dreams = Table(
    "dreams",
    metadata,
    Column("id", String, primary_key=True),
    Column("workspace_id", String, ForeignKey("workspaces.id"), nullable=False),
    Column("status", String, nullable=False),
    Column("inputs", JSON, nullable=False),  # as the API shows them
    Column("store_id", String, nullable=False),
    Column("session_ids", JSON, nullable=False),
    Column("model", JSON, nullable=False),
    Column("instructions", String),
    Column("updates", Boolean, nullable=False),  # writes into the store that it reads
    Column("output_id", String),
    # Chosen with the dream, and there once it has started; also the key of its lease.
    Column("session_id", String, nullable=False, unique=True),
    Column("error", JSON),
    Column("usage", JSON, nullable=False),  # as of the end; until then the session knows
    Column("progress", JSON, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("started_us", BigInteger),
    Column("ended_us", BigInteger),
    Column("stopped_us", BigInteger),  # nothing of it acts any more
    Column("archived_us", BigInteger),
    Index("ix_dreams_list", "workspace_id", "created_us", "id"),
    Index("ix_dreams_live", "workspace_id", "archived_us", "created_us", "id"),
    Index("ix_dreams_store", "store_id", "stopped_us"),
)

# The memories that a dream found, and what it knows of each.
dream_memories = Table(
    "dream_memories",
    metadata,
    Column("dream_id", String, ForeignKey("dreams.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String, primary_key=True),
    Column("found_version_id", String),  # in the input store; none for one of the dream's own
    Column("seen_version_id", String),  # in the output store, when the model last saw all of it
    Column("seen_part", Integer, nullable=False),
    Column("reason", String),  # why the model deleted it
)

# What the sessions of a workspace's dreams refer to as their agent and their environment.
dream_homes = Table(
    "dream_homes",
    metadata,
    Column("workspace_id", String, ForeignKey("workspaces.id"), primary_key=True),
    Column("agent_id", String, nullable=False),
    Column("environment_id", String, nullable=False),
)
