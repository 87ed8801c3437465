from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect

from intramuros.control.store.migrations.versions import m0001_pre_initial
from intramuros.control.store.tables import metadata


def test_it_makes_the_first_tables() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        made = set(inspect(connection).get_table_names())
    assert {"workspaces", "credentials", "resources", "sessions", "events", "audit"} <= made
    assert made <= set(metadata.tables)
    engine.dispose()
