from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0003_pre_blobs


def test_it_adds_blobs_and_the_skills_of_sessions() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        before = set(inspect(connection).get_table_names())
        m0003_pre_blobs.upgrade()
        after = set(inspect(connection).get_table_names())
    assert after - before == {"blobs", "storage", "session_skills"}
    engine.dispose()
