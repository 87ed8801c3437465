from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, text

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0022_pre_releases


def test_questions_go_with_their_session() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0022_pre_releases.upgrade()
        (key,) = connection.execute(text("PRAGMA foreign_key_list(releases)")).all()
        assert (key.table, key.on_delete) == ("sessions", "CASCADE")
        plan = text("EXPLAIN QUERY PLAN SELECT body FROM releases WHERE session_id = 's'")
        assert "session_id=?" in connection.execute(plan).one().detail
    engine.dispose()
