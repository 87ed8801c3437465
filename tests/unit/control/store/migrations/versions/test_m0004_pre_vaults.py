from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0004_pre_vaults


def test_it_makes_the_table_with_its_unique_key() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0004_pre_vaults.upgrade()
        [index] = inspect(connection).get_indexes("vault_secrets")
    assert (index["column_names"], index["unique"]) == (["vault_id", "match_key"], 1)
    engine.dispose()
