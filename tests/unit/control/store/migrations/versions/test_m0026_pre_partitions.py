"""On SQLite; on PostgreSQL: tests/integration/control/store/test_partitions.py."""

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect, text

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0026_pre_partitions


def test_on_sqlite_the_log_stays_as_it_is() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        before = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'events'"))
        (sql,) = before.scalars()
        m0026_pre_partitions.upgrade()
        after = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'events'"))
        assert list(after.scalars()) == [sql]
        assert "removed_logs" in inspect(connection).get_table_names()
    engine.dispose()
