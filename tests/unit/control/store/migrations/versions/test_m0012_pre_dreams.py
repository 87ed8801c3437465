from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0012_pre_dreams


def test_it_makes_the_tables_with_their_keys() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0012_pre_dreams.upgrade()
        look = inspect(connection)
        [unique] = look.get_unique_constraints("dreams")
        indexes = {index["name"] for index in look.get_indexes("dreams")}
        key = look.get_pk_constraint("dream_memories")["constrained_columns"]
    assert unique["column_names"] == ["session_id"]
    assert {"ix_dreams_list", "ix_dreams_store"} <= indexes
    assert key == ["dream_id", "path"]
    engine.dispose()
