"""On PostgreSQL the log lies in partitions, and outlives its sessions until it is removed.

The table becomes the first partition as it is: of all ids, so that nothing has to be looked at. A
server cuts it later (store/partitions.py). Only names change, behind locks that last for
milliseconds; servers of the release before go on, for their statements mean the same, and sessions
that they delete are remembered by the trigger.
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"

_FIRST = "events_p0"
# PostgreSQL attaches these to the parent's instead of building new ones.
_INDEXES = ("pk_events", "ix_events_event", "ix_events_waiting")
_REMEMBER = (
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


def upgrade() -> None:
    """Apply it."""
    op.create_table(
        "removed_logs",
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("removed_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_removed_logs")),
    )
    if op.get_bind().dialect.name == "sqlite":
        return
    # Whoever reads locks sessions before their logs; so do we.
    op.execute("LOCK TABLE sessions, events IN ACCESS EXCLUSIVE MODE")
    op.drop_constraint("fk_events_session_id", "events", type_="foreignkey")
    for statement in _REMEMBER:
        op.execute(statement)
    op.rename_table("events", _FIRST)
    for name in _INDEXES:
        op.execute(f"ALTER INDEX {name} RENAME TO {name.replace('events', _FIRST)}")
    op.execute(
        f"CREATE TABLE events (LIKE {_FIRST} INCLUDING DEFAULTS) PARTITION BY RANGE (session_id)"
    )
    op.create_primary_key("pk_events", "events", ["session_id", "seq"])
    op.create_index("ix_events_event", "events", ["session_id", "event_id", "queued"], unique=True)
    op.create_index(
        "ix_events_waiting",
        "events",
        ["session_id", "seq"],
        postgresql_where=sa.text("queued = true"),
    )
    op.execute(
        f"ALTER TABLE events ATTACH PARTITION {_FIRST} FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
    )
