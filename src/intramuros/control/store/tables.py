"""Every table of the control plane.

Times are whole microseconds since the epoch (``*_us``); JSON is kept as text that our own models
wrote. Portable between SQLite and PostgreSQL.
"""

from typing import Any, Final

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    event,
    false,
    text,
    true,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_BY_TIME = ("created_us", "id")


def _partial(name: str, *columns: str, where: str) -> Index:
    """Return an index of the rows that fulfil a condition."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


def _where_set(name: str, *columns: str) -> Index:
    """Return an index of the rows whose first column is set: most rows' is not, and cost nothing.

    Equality with anything implies the condition, and costs the planner no column.
    """
    return _partial(name, *columns, where=f"{columns[0]} IS NOT NULL")


workspaces = Table(
    "workspaces",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("archived_us", BigInteger),
    Column("body", JSON),  # tags, colour and the like; none for one that was never configured
)

# Who belongs to a workspace: service accounts with a role, federation rules without.
workspace_members = Table(
    "workspace_members",
    metadata,
    Column("workspace_id", String, ForeignKey("workspaces.id"), primary_key=True),
    Column("member_id", String, ForeignKey("resources.id"), primary_key=True),
    Column("kind", String, nullable=False),  # of the member
    Column("role", String),
    Column("created_by", String),
    Column("created_us", BigInteger, nullable=False),
    Index("ix_workspace_members_member", "member_id", "created_us"),
)

# Assertions that were exchanged for a token and must not be again, until they expire by themselves.
spent_assertions = Table(
    "spent_assertions",
    metadata,
    Column("issuer_id", String, primary_key=True),
    Column("jti_digest", String, primary_key=True),
    Column("expires_us", BigInteger, nullable=False),
    Index("ix_spent_assertions_expires", "expires_us"),
)

# Every secret that a caller may present, by the SHA-256 of its text; the text itself is never kept.
credentials = Table(
    "credentials",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),  # a CredentialKind
    Column("digest", String, nullable=False, unique=True),
    Column("workspace_id", String, ForeignKey("workspaces.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("environment_id", String),
    Column("session_id", String),
    Column("work_id", String),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger),
    Column("revoked_us", BigInteger),
    Column("disabled_us", BigInteger),  # switched off, and may be switched on again
    Column("hint", String),  # enough of the secret to tell keys apart, and no more
    Column("principal_id", String),  # the service account or the user it acts as
    Column("created_by", String),  # the service account or the user who made it, when there is one
    Index("ix_credentials_principal", "principal_id"),
    Index("ix_credentials_creator", "created_by"),
    Index("ix_credentials_work", "work_id"),
    Index("ix_credentials_environment", "environment_id", "kind", "created_us", "id"),
    Index("ix_credentials_list", "workspace_id", "kind", "created_us", "id"),
    Index("ix_credentials_kind", "kind", "created_us", "id"),
)

# The people of the organization. Rows stay when somebody leaves; an address is one person's here.
users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    Column("email", String, nullable=False),  # as it was written
    Column("email_key", String, nullable=False),  # as it is compared (identity/emails.py)
    Column("name", String, nullable=False),
    Column("role", String, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("removed_us", BigInteger),
    Column("signed_out_us", BigInteger),  # sign-in sessions from before this are over
    Index("ix_users_list", "created_us", "id"),
)
Index(
    "ix_users_email",
    users.c.email_key,
    unique=True,
    sqlite_where=users.c.removed_us.is_(None),
    postgresql_where=users.c.removed_us.is_(None),
)

invites = Table(
    "invites",
    metadata,
    Column("id", String, primary_key=True),
    Column("email", String, nullable=False),
    Column("email_key", String, nullable=False),
    Column("role", String, nullable=False),
    Column("group_ids", JSON, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("accepted_us", BigInteger),
    Column("deleted_us", BigInteger),
    Index("ix_invites_list", "created_us", "id"),
    Index("ix_invites_email", "email_key"),
)

# Whom somebody made a member of a workspace; roles of the organization give more without a row.
user_workspaces = Table(
    "user_workspaces",
    metadata,
    Column("workspace_id", String, ForeignKey("workspaces.id"), primary_key=True),
    Column("user_id", String, ForeignKey("users.id"), primary_key=True),
    Column("role", String, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index("ix_user_workspaces_user", "user_id"),
)

groups = Table(
    "groups",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("role_ids", JSON, nullable=False),  # of built-in roles (identity/roles.py)
    Column("created_us", BigInteger, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
    Index("ix_groups_list", "created_us", "id"),
)

group_members = Table(
    "group_members",
    metadata,
    Column("group_id", String, ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", String, ForeignKey("users.id"), primary_key=True),
    Column("created_us", BigInteger, nullable=False),
    Index("ix_group_members_list", "group_id", "created_us", "user_id"),
    Index("ix_group_members_user", "user_id"),
)

# Configured resources of every kind; ``body`` is the newest version's.
resources = Table(
    "resources",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("workspace_id", String, ForeignKey("workspaces.id"), nullable=False),
    Column("parent_id", String),  # the tunnel of a certificate
    Column("version", Integer, nullable=False),
    Column("body", JSON, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
    Column("archived_us", BigInteger),
    Column("sort_key", String),  # of kinds that are listed by name
    Index("ix_resources_list", "workspace_id", "kind", "created_us", "id"),
    Index("ix_resources_name", "workspace_id", "kind", "sort_key", "id"),
    _where_set("ix_resources_parent", "parent_id", "workspace_id", "kind", "created_us", "id"),
    # Lists leave archived ones out unless asked, however many there are. Not a partial index:
    # without statistics SQLite would choose by the number of columns that are fixed.
    Index("ix_resources_live", "workspace_id", "kind", "archived_us", "created_us", "id"),
    _where_set(
        "ix_resources_live_parent", "parent_id", "workspace_id", "kind", "archived_us", *_BY_TIME
    ),
)

resource_versions = Table(
    "resource_versions",
    metadata,
    Column("resource_id", String, ForeignKey("resources.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("body", JSON, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("workspace_id", String, ForeignKey("workspaces.id"), nullable=False),
    Column("environment_id", String, ForeignKey("resources.id"), nullable=False),
    Column("environment_kind", String, nullable=False),  # cloud, self_hosted, dream
    Column("agent_id", String, ForeignKey("resources.id"), nullable=False),
    Column("agent_version", Integer, nullable=False),
    Column("agent", JSON, nullable=False),  # the effective snapshot, as the API shows it
    Column("title", String),
    Column("metadata", JSON, nullable=False),
    Column("resources", JSON, nullable=False),
    Column("vault_ids", JSON, nullable=False),
    Column("status", String, nullable=False),
    Column("state", JSON, nullable=False),  # fold of the log through last_seq
    Column("last_seq", BigInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
    Column("archived_us", BigInteger),
    Column("deployment_id", String),  # whose run created it
    Column("outcomes", JSON, nullable=False, server_default="[]"),  # as the API shows them
    # Everybody who made it or sent it events, each once: kind and id (catalog/behind.py).
    Column("steered_by", JSON, nullable=False, server_default="[]"),
    Index("ix_sessions_list", "workspace_id", "created_us", "id"),
    Index("ix_sessions_environment", "environment_id"),
    Index("ix_sessions_agent", "agent_id", "created_us", "id"),
    Index("ix_sessions_status", "workspace_id", "status", "created_us", "id"),
    Index("ix_sessions_live", "workspace_id", "archived_us", "created_us", "id"),
    Index("ix_sessions_live_agent", "agent_id", "archived_us", "created_us", "id"),
    _where_set("ix_sessions_deployment", "deployment_id", "created_us", "id"),
    _where_set("ix_sessions_live_deployment", "deployment_id", "archived_us", "created_us", "id"),
)

# Which stores a session has, and whether it may only read them (also shown in its resources).
memory_attachments = Table(
    "memory_attachments",
    metadata,
    Column("session_id", String, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("store_id", String, primary_key=True),
    Column("read_only", Boolean, nullable=False),
    Column("created_us", BigInteger, nullable=False),  # the session's
    Index("ix_memory_attachments_list", "store_id", "created_us", "session_id"),
)

# Memories as they are now; what one holds is the content of its newest version.
memories = Table(
    "memories",
    metadata,
    Column("id", String, primary_key=True),
    Column("store_id", String, ForeignKey("resources.id"), nullable=False),
    Column("path", String, nullable=False),
    Column("version_id", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
    Index("ix_memories_path", "store_id", "path", unique=True),
)

# Every change of every memory, kept when the memory goes. Only redaction changes a row. Content is
# bytes, because text of the database's own could not hold every character.
memory_versions = Table(
    "memory_versions",
    metadata,
    Column("id", String, primary_key=True),
    Column("store_id", String, ForeignKey("resources.id"), nullable=False),
    Column("memory_id", String, nullable=False),
    Column("operation", String, nullable=False),  # created, modified, deleted
    Column("path", String),
    Column("content", LargeBinary),
    Column("sha256", String),
    Column("size_bytes", Integer),
    Column("author_kind", String, nullable=False),  # session_actor, api_actor
    Column("author_id", String, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("redactor_kind", String),
    Column("redactor_id", String),
    Column("redacted_us", BigInteger),
    Index("ix_memory_versions_list", "store_id", "created_us", "id"),
    Index("ix_memory_versions_memory", "memory_id", "store_id", "created_us", "id"),
    Index("ix_memory_versions_operation", "store_id", "operation", "created_us", "id"),
    Index("ix_memory_versions_author", "store_id", "author_kind", "author_id", *_BY_TIME),
)

# The log. Rows are only ever inserted. A client's input that waits for a turn is one row when it
# arrives (``queued``) and another, with the same event id, when the loop consumes it. ``internal``
# rows steer the loop and are never shown. On PostgreSQL it lies in partitions, by the time at which
# sessions were made, which their ids begin with (store/partitions.py).
events = Table(
    "events",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("event_id", String, nullable=False),
    Column("type", String, nullable=False),
    Column("thread_id", String),
    Column("queued", Boolean, nullable=False),
    Column("internal", Boolean, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("body", JSON, nullable=False),
    Column("private", JSON),
    # A child thread's row that the session's own view shows too.
    Column("shared", Boolean, nullable=False, server_default=false()),
    # PostgreSQL removes the log of a deleted session later (removed_logs).
    ForeignKeyConstraint(["session_id"], ["sessions.id"], ondelete="CASCADE").ddl_if(
        dialect="sqlite"
    ),
    Index("ix_events_event", "session_id", "event_id", "queued", unique=True),
    postgresql_partition_by="RANGE (session_id)",
)
Index(
    "ix_events_waiting",
    events.c.session_id,
    events.c.seq,
    sqlite_where=events.c.queued == true(),
    postgresql_where=events.c.queued == true(),
)

# Sessions that are deleted, and whose logs are not yet; on PostgreSQL only, where a trigger writes
# it whoever deletes (store/removed_logs.py).
removed_logs = Table(
    "removed_logs",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("removed_us", BigInteger, nullable=False),
)
removed_logs.add_is_dependent_on(sessions)

FIRST_PARTITION: Final = (
    "CREATE TABLE events_p0 PARTITION OF events FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
)
REMEMBER_LOGS: Final = (
    """
    CREATE OR REPLACE FUNCTION intramuros_remember_log() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO removed_logs (session_id, removed_us)
        VALUES (OLD.id, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
        ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER remember_log AFTER DELETE ON sessions
    FOR EACH ROW EXECUTE FUNCTION intramuros_remember_log()
    """,
)
_ddl: Any = DDL
for _table, _statement in (
    (events, FIRST_PARTITION),
    *((removed_logs, statement) for statement in REMEMBER_LOGS),
):
    event.listen(_table, "after_create", _ddl(_statement).execute_if(dialect="postgresql"))

# One durable queue. ``epoch`` is the fencing token: it grows with every claim (store/leases.py).
leases = Table(
    "leases",
    metadata,
    Column("id", String, primary_key=True),
    Column("queue", String, nullable=False),  # turn, work/<environment id>, deployment ...
    Column("key", String, nullable=False),
    Column("state", String, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", String),
    Column("available_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger),
    Column("payload", JSON, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index("ix_leases_claim", "queue", "state", "available_us"),
    Index("ix_leases_key", "queue", "key", "created_us", "id"),
    _partial("ix_leases_waiting", "available_us", "id", where="state = 'queued'"),
    Index("ix_leases_list", "queue", "created_us", "id"),
    _partial("ix_leases_served", "expires_us", where="state IN ('starting', 'active', 'stopping')"),
)

# When each worker last asked an environment for work (contract 9.38).
pollers = Table(
    "pollers",
    metadata,
    Column("environment_id", String, primary_key=True),
    Column("worker_id", String, primary_key=True),
    Column("seen_us", BigInteger, nullable=False),
)

# The control plane's own hash-chained audit log (protocol/audit.py); one chain.
audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("workspace_id", String),
    Column("session_id", String),
    Column("line", String, nullable=False),
    Column("hash", String, nullable=False),
    _where_set("ix_audit_session", "session_id", "seq"),
)

# One row when the organization was ever asked to capture activities, or to stop.
compliance = Table(
    "compliance",
    metadata,
    Column("name", String, primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
)

# Which records of the chain are activities of the compliance feed: an index over them, written with
# them while capturing is on. What an activity says is read from the record itself.
activities = Table(
    "activities",
    metadata,
    Column("seq", BigInteger, ForeignKey("audit.seq"), primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("type", String, nullable=False),
    Column("actor_id", String),
    Index("ix_activities_time", "at_us", "seq"),
    Index("ix_activities_type", "type", "at_us", "seq"),
    Index("ix_activities_actor", "actor_id", "at_us", "seq"),
)

# Keys that the server made for itself (ticket signing), sealed when a master key is configured.
secrets = Table(
    "secrets",
    metadata,
    Column("name", String, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)

# What the blob store holds and for whom; written and removed with the resource that holds it.
blobs = Table(
    "blobs",
    metadata,
    Column("key", String, primary_key=True),  # copies share their bytes
    Column("workspace_id", String, ForeignKey("workspaces.id"), nullable=False),
    Column("owner_id", String, primary_key=True),  # a file, a skill version
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("expires_us", BigInteger),
    Column("gone", Boolean, nullable=False),  # expired: the bytes are no more
    Column("counted", Boolean, nullable=False, server_default=true()),  # takes room
    Index("ix_blobs_owner", "owner_id"),
    Index("ix_blobs_expires", "gone", "expires_us"),
)

# The room that blobs take, kept in step with them.
storage = Table(
    "storage",
    metadata,
    Column("workspace_id", String, ForeignKey("workspaces.id"), primary_key=True),
    Column("used_bytes", BigInteger, nullable=False),
)

# Secrets of active vault credentials (store/strongbox.py); archiving a credential deletes its row.
vault_secrets = Table(
    "vault_secrets",
    metadata,
    Column("credential_id", String, ForeignKey("resources.id"), primary_key=True),
    Column("vault_id", String, ForeignKey("resources.id"), nullable=False),
    Column("match_key", String, nullable=False),  # a server's URL or a variable's name
    Column("sealed_key", LargeBinary, nullable=False),  # the data key, by the master key
    Column("sealed", LargeBinary, nullable=False),  # the secret, by the data key
    Column("epoch", BigInteger, nullable=False),  # grows with every replacement and refresh lock
    Column("locked_us", BigInteger),  # until when one process may refresh it
    Column("stopped", Boolean, nullable=False),  # the grant is gone: no refresh until replaced
    Column("failing", Boolean, nullable=False),  # the last refresh failed
    Index("ix_vault_secrets_key", "vault_id", "match_key", unique=True),
)
