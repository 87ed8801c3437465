from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, text

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0025_pre_ssh


def test_what_workers_ask_for_is_found_by_an_index_of_the_revoked_alone() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0025_pre_ssh.upgrade()
        for column, index in (("id", "revoked"), ("kind", "revoked_kind")):
            asked = (
                "EXPLAIN QUERY PLAN SELECT serial FROM ssh_certificates "
                f"WHERE environment_{column} = 'e' AND revoked_us IS NOT NULL"
            )
            detail = connection.execute(text(asked)).one().detail
            assert f"USING INDEX ix_ssh_certificates_{index} " in detail
    engine.dispose()
