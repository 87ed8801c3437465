"""Tables of what belongs to a session beside its row and its log."""

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, String, Table

from intramuros.control.store.tables import metadata

# The skills of a session at the versions it started with, and what its model is told of them.
session_skills = Table(
    "session_skills",
    metadata,
    Column("session_id", String, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("skill_id", String, primary_key=True),
    Column("version_id", String, nullable=False),
    Column("position", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("description", String, nullable=False),
    Index("ix_session_skills_skill", "skill_id", "session_id"),
)

# The child threads of sessions, past ones included: what the log adds up to for each, kept in step
# with it by the journal. The primary thread is a view of its session's row.
threads = Table(
    "threads",
    metadata,
    Column("id", String, primary_key=True),
    Column("session_id", String, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("agent", JSON, nullable=False),
    Column("status", String, nullable=False),
    Column("state", JSON, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
    Column("archived_us", BigInteger),
    Index("ix_threads_list", "session_id", "created_us", "id"),
)
