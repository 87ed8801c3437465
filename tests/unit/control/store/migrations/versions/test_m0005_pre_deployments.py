from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect, text

from intramuros.control.store.migrations.versions import (
    m0001_pre_initial,
    m0005_pre_deployments,
)


def test_sessions_that_there_are_belong_to_no_deployment() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        connection.execute(text("INSERT INTO workspaces VALUES ('w', 'kept', 0)"))
        connection.execute(
            text(
                "INSERT INTO sessions VALUES ('s', 'w', 'e', 'cloud', 'a', 1, '{}', NULL, '{}', "
                "'[]', '[]', 'idle', '{}', 0, 1, 1, NULL)"
            )
        )
        m0005_pre_deployments.upgrade()
        kept = connection.execute(text("SELECT id, deployment_id FROM sessions")).one()
        assert tuple(kept) == ("s", None)
        assert {"deployments", "deployment_runs"} <= set(inspect(connection).get_table_names())
    engine.dispose()
