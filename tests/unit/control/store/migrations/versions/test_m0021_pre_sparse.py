from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, text

from intramuros.control.store.migrations.versions import m0021_pre_sparse

TABLES = (
    "CREATE TABLE resources (id, parent_id, workspace_id, kind, archived_us, created_us)",
    "CREATE TABLE sessions (id, deployment_id, archived_us, created_us)",
    "CREATE TABLE audit (seq, session_id)",
    "CREATE INDEX ix_resources_parent ON resources (parent_id)",
    "CREATE INDEX ix_resources_live_parent ON resources (parent_id)",
    "CREATE INDEX ix_sessions_deployment ON sessions (deployment_id)",
    "CREATE INDEX ix_sessions_live_deployment ON sessions (deployment_id)",
    "CREATE INDEX ix_audit_session ON audit (session_id)",
)
NEXT_PAGE = (
    "EXPLAIN QUERY PLAN SELECT id FROM sessions WHERE deployment_id = 'd' AND archived_us IS NULL"
    " AND (created_us, id) < (9, 'x') ORDER BY created_us DESC, id DESC LIMIT 21"
)


def test_only_what_is_set_is_indexed_and_found_by_it() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        for statement in TABLES:
            connection.execute(text(statement))
        connection.execute(text("INSERT INTO sessions (id, created_us) VALUES ('s', 1)"))
        m0021_pre_sparse.upgrade()
        (plan,) = [row.detail for row in connection.execute(text(NEXT_PAGE))]
        kept = connection.execute(
            text("SELECT name FROM sqlite_master WHERE sql LIKE '%IS NOT NULL'")
        ).scalars()
        assert set(kept) == {name for _, name, *_ in m0021_pre_sparse._INDEXES}
    assert "ix_sessions_live_deployment (deployment_id=? AND archived_us=? AND" in plan
    engine.dispose()
