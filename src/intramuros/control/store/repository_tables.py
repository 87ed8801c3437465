"""The tables of repositories; as in ``tables.py``, in the same schema."""

from sqlalchemy import Column, ForeignKey, Index, LargeBinary, String, Table

from intramuros.control.store.tables import metadata

# Tokens of repositories: of a session's by the resource's id, of a deployment's by an id of their
# own. A row is there while its owner can use it.
repository_tokens = Table(
    "repository_tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("session_id", String, ForeignKey("sessions.id", ondelete="CASCADE")),
    Column("deployment_id", String, ForeignKey("resources.id")),
    Column("sealed_key", LargeBinary, nullable=False),  # the data key, by the master key
    Column("sealed", LargeBinary, nullable=False),  # the token, by the data key
    Index("ix_repository_tokens_session", "session_id"),
    Index("ix_repository_tokens_deployment", "deployment_id"),
)
