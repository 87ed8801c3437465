from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect, text

from intramuros.control.store.migrations.versions import (
    m0001_pre_initial,
    m0003_pre_blobs,
    m0015_pre_copies,
)


def test_blobs_keep_their_rows_and_may_be_shared() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0003_pre_blobs.upgrade()
        connection.execute(text("INSERT INTO workspaces (id, name, created_us) VALUES ('w','W',0)"))
        connection.execute(text("INSERT INTO blobs VALUES ('k', 'w', 'file_1', 5, 'sha', NULL, 0)"))
        m0015_pre_copies.upgrade()
        assert inspect(connection).get_pk_constraint("blobs")["constrained_columns"] == [
            "key",
            "owner_id",
        ]
        assert {index["name"] for index in inspect(connection).get_indexes("blobs")} == {
            "ix_blobs_owner",
            "ix_blobs_expires",
        }
        row = connection.execute(text("SELECT key, owner_id, size_bytes, counted FROM blobs"))
        assert tuple(row.one()) == ("k", "file_1", 5, 1)
    engine.dispose()
