from sqlalchemy import func, select

from intramuros.control.store.db import Tx
from intramuros.control.store.removed_logs import clear, waiting
from intramuros.control.store.tables import events, removed_logs


def put(tx: Tx, session_id: str, rows: int, *, removed: bool = True) -> None:
    flags = {"queued": False, "internal": False, "at_us": 1, "body": {}, "type": "x"}
    if removed:
        tx.execute(removed_logs.insert().values(session_id=session_id, removed_us=1))
    if tx.connection.dialect.name == "sqlite":
        tx.connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
    values = [{"session_id": session_id, "seq": n + 1, "event_id": f"e{n}"} for n in range(rows)]
    tx.execute(events.insert(), [{**one, **flags} for one in values])


def count(tx: Tx, session_id: str) -> int:
    which = select(func.count()).where(events.c.session_id == session_id)
    return int(tx.execute(which).scalar_one())


def test_a_log_goes_in_batches_and_is_forgotten_behind_the_last(tx: Tx) -> None:
    put(tx, "sesn_1", 2_001)
    put(tx, "sesn_2", 3, removed=False)
    assert [clear(tx, "sesn_1") for _ in range(3)] == [1_000, 1_000, 1]
    assert waiting(tx, 9) == ["sesn_1"]
    assert clear(tx, "sesn_1") == 0
    assert waiting(tx, 9) == []
    # A session that was not deleted keeps its log, whoever asks.
    assert clear(tx, "sesn_2") == 0
    assert count(tx, "sesn_2") == 3


def test_what_leaves_with_its_partition_is_left_out(tx: Tx) -> None:
    for n in range(6):
        put(tx, f"sesn_{n}", 1)
    assert waiting(tx, 2) == ["sesn_0", "sesn_1"]
    assert waiting(tx, 9, [("", "sesn_2"), ("sesn_3", "sesn_5")]) == ["sesn_2", "sesn_5"]
