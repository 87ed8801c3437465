from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, text

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0011_pre_threads


def test_events_from_before_are_the_primary_threads_own() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        connection.execute(
            text(
                "INSERT INTO events "
                "(session_id, seq, event_id, type, queued, internal, at_us, body) VALUES "
                "('sesn_1', 1, 'sevt_1', 'user.message', 0, 0, 1, '{}')"
            )
        )
        m0011_pre_threads.upgrade()
        row = connection.execute(text("SELECT thread_id, shared FROM events")).one()
    assert (row.thread_id, row.shared) == (None, 0)
    engine.dispose()
