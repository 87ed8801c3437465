from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, text

from intramuros.control.store.migrations.versions import (
    m0001_pre_initial,
    m0012_pre_dreams,
    m0020_pre_live,
)

LIVE = (
    "EXPLAIN QUERY PLAN SELECT id FROM dreams WHERE workspace_id = 'w' AND archived_us IS NULL"
    " AND (created_us, id) < (9, 'x') ORDER BY created_us DESC, id DESC LIMIT 21"
)


def test_the_next_page_of_what_is_not_archived_comes_through_the_index() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0012_pre_dreams.upgrade()
        m0020_pre_live.upgrade()
        (plan,) = [row.detail for row in connection.execute(text(LIVE))]
    assert "ix_dreams_live (workspace_id=? AND archived_us=? AND (created_us,id)<(?,?))" in plan
    engine.dispose()
