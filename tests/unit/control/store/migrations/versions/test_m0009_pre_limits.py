from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect, text

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0009_pre_limits


def test_spans_are_never_numbered_twice() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0009_pre_limits.upgrade()
        insert = text("INSERT INTO telemetry_spans (workspace_id, at_us, span) VALUES ('w', 0, 1)")
        for _ in range(3):
            connection.execute(insert)
        connection.execute(text("DELETE FROM telemetry_spans"))
        connection.execute(insert)
        assert connection.execute(text("SELECT seq FROM telemetry_spans")).scalars().all() == [4]
        assert {"rate_limits", "spend_limits", "spend_days", "usage_minutes"} <= set(
            inspect(connection).get_table_names()
        )
    engine.dispose()
