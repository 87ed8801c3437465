"""The table of what workers hold back until a person decides; as in ``tables.py``."""

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, String, Table

from intramuros.control.store.tables import metadata

releases = Table(
    "releases",
    metadata,
    Column("session_id", String, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("id", String, primary_key=True),  # the worker's
    Column("body", JSON, nullable=False),  # what it asks, without content
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("result", String),
    Column("deny_message", String),
    Column("decided_us", BigInteger),
    Column("decided_by", String),  # the credential
)
