"""The table of SSH certificates that may still matter to somebody; as in ``tables.py``."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, String, Table, text

from intramuros.control.store.tables import metadata

_REVOKED = text("revoked_us IS NOT NULL")

# Kept until nobody can be inside by it any more, then forgotten; the audit chain remembers it.
ssh_certificates = Table(
    "ssh_certificates",
    metadata,
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("workspace_id", String, ForeignKey("workspaces.id"), nullable=False),
    # The session may be gone: a certificate outlives it, and is on the list then.
    Column("session_id", String, nullable=False),
    Column("environment_id", String, nullable=False),
    Column("environment_kind", String, nullable=False),  # the session's
    Column("key_id", String, nullable=False),  # who asked, and when, as the certificate says it
    Column("key", String, nullable=False),  # fingerprint of the holder's key
    Column("credential_id", String, nullable=False),  # by which it was asked for
    Column("principal_id", String),  # the service account or the user that acted
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("forget_us", BigInteger, nullable=False),
    Column("revoked_us", BigInteger),
    Column("revoked_why", String),
    Index("ix_ssh_certificates_session", "session_id", "created_us", "serial"),
    Index("ix_ssh_certificates_credential", "credential_id"),
    Index("ix_ssh_certificates_principal", "principal_id"),
    Index("ix_ssh_certificates_environment", "environment_id"),
    Index("ix_ssh_certificates_kind", "environment_kind"),
    Index("ix_ssh_certificates_forget", "forget_us"),
    Index(
        "ix_ssh_certificates_revoked",
        "environment_id",
        "serial",
        sqlite_where=_REVOKED,
        postgresql_where=_REVOKED,
    ),
    Index(
        "ix_ssh_certificates_revoked_kind",
        "environment_kind",
        "serial",
        sqlite_where=_REVOKED,
        postgresql_where=_REVOKED,
    ),
)
