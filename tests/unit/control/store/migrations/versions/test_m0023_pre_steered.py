from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, text

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0023_pre_steered

SESSION = """
INSERT INTO sessions (
  id, workspace_id, environment_id, environment_kind, agent_id, agent_version, agent, metadata,
  resources, vault_ids, status, state, last_seq, created_us, updated_us
) VALUES ('s', 'w', 'e', 'cloud', 'a', 1, '{}', '{}', '[]', '[]', 'idle', '{}', 0, 0, 0)
"""


def test_sessions_that_are_there_have_nobody_behind_them() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        connection.execute(text(SESSION))
        m0023_pre_steered.upgrade()
        kept = connection.execute(text("SELECT id, steered_by FROM sessions")).one()
        assert tuple(kept) == ("s", "[]")
    engine.dispose()
