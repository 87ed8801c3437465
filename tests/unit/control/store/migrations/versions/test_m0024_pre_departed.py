import json

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import text

from intramuros.control.store.migrations.versions import m0024_pre_departed
from tests.engines import blank

TABLES = (
    "CREATE TEMP TABLE sessions (id VARCHAR, state TEXT)",
    "CREATE TEMP TABLE threads (session_id VARCHAR, status VARCHAR, state TEXT)",
)
LED = {"phase": "idle", "crew": {"members": [], "active_us": 5}}
THREADS = (
    ("sesn_1", "terminated", {"active_us": 30}),
    ("sesn_1", "terminated", {"active_us": 12}),
    ("sesn_1", "running", {"active_us": 7}),
    ("sesn_2", "idle", {}),
    ("sesn_450", "terminated", {"active_us": 1}),
)


def test_the_time_of_threads_that_left_is_added_up() -> None:
    alone = {"phase": "idle", "calls": ["crew", "\x00\ud800"], "active_us": 3}
    with blank() as connection, Operations.context(MigrationContext.configure(connection)):
        for statement in TABLES:
            connection.execute(text(statement))
        rows = [{"id": f"sesn_{n}", "state": json.dumps(LED)} for n in range(1, 451)]
        rows.append({"id": "sesn_alone", "state": json.dumps(alone)})
        connection.execute(text("INSERT INTO sessions VALUES (:id, :state)"), rows)
        connection.execute(
            text("INSERT INTO threads VALUES (:id, :status, :state)"),
            [{"id": id, "status": status, "state": json.dumps(s)} for id, status, s in THREADS],
        )
        m0024_pre_departed.upgrade()
        kept = connection.execute(text("SELECT id, state FROM sessions")).all()
        found = {row.id: json.loads(row.state) for row in kept}
    assert found.pop("sesn_alone") == alone
    spent = {"sesn_1": 42, "sesn_450": 1}
    assert found == {
        id: {**LED, "crew": {**LED["crew"], "departed_us": spent.get(id, 0)}} for id in found
    }
