from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect, text

from intramuros.control.store.migrations.versions import (
    m0001_pre_initial,
    m0007_pre_organization,
    m0008_pre_people,
)


def test_it_keeps_the_keys_there_are() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0007_pre_organization.upgrade()
        connection.execute(text("INSERT INTO workspaces VALUES ('w', 'W', 0, NULL, NULL)"))
        connection.execute(
            text(
                "INSERT INTO credentials (id, kind, digest, workspace_id, name, scopes, created_us)"
                " VALUES ('k', 'api_key', 'd', 'w', 'kept', '[]', 0)"
            )
        )
        m0008_pre_people.upgrade()
        kept = connection.execute(text("SELECT name, created_by FROM credentials")).one()
        assert tuple(kept) == ("kept", None)
        assert {"users", "invites", "groups", "group_members", "activities", "compliance"} <= set(
            inspect(connection).get_table_names()
        )
    engine.dispose()
