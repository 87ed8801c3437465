from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect, text

from intramuros.control.store.migrations.versions import (
    m0001_pre_initial,
    m0007_pre_organization,
)


def test_it_keeps_the_workspaces_and_keys_there_are() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        connection.execute(text("INSERT INTO workspaces VALUES ('w', 'kept', 0)"))
        m0007_pre_organization.upgrade()
        kept = connection.execute(text("SELECT name, archived_us, body FROM workspaces")).one()
        assert tuple(kept) == ("kept", None, None)
        columns = {column["name"] for column in inspect(connection).get_columns("credentials")}
        assert {"disabled_us", "hint", "principal_id"} <= columns
        assert {"workspace_members", "spent_assertions"} <= set(
            inspect(connection).get_table_names()
        )
    engine.dispose()
