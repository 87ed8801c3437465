from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, text

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0014_pre_pool


def test_the_index_holds_only_what_waits() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0014_pre_pool.upgrade()
        made = connection.execute(
            text("SELECT sql FROM sqlite_master WHERE name = 'ix_leases_waiting'")
        ).scalar_one()
    assert made.endswith("ON leases (available_us, id) WHERE state = 'queued'")
    engine.dispose()
