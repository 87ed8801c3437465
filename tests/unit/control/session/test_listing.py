"""What lists of sessions hold is tested with the sessions; here, that an index finds each."""

from typing import Any

import pytest
from sqlalchemy import create_engine

from intramuros.control.session.listing import Query, find
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import metadata

CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "ix_sessions_live"),
    ({"include_archived": True}, "ix_sessions_list"),
    ({"agent_id": "a"}, "ix_sessions_live_agent"),
    ({"agent_id": "a", "include_archived": True}, "ix_sessions_agent"),
    ({"statuses": ("idle",)}, "ix_sessions_status"),
    ({"statuses": ("idle",), "include_archived": True}, "ix_sessions_status"),
    ({"statuses": ("terminated",), "include_archived": True}, "ix_sessions_status"),
    ({"statuses": ("idle", "running")}, "ix_sessions_status"),
    ({"memory_store_id": "s"}, "ix_memory_attachments_list"),
]


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("after", [None, (5, "sesn_5")])
@pytest.mark.parametrize(("query", "index"), CASES)
def test_an_index_holds_each_list_in_order(
    query: dict[str, Any], index: str, after: Any, ascending: bool
) -> None:
    bounds = {"from_us": 1, "until_us": 9}
    ran: list[str] = []
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        raw: Any = connection.connection.dbapi_connection
        raw.set_trace_callback(ran.append)
        find(Tx(connection), "w", Query(**query, **bounds, after=after), ascending=ascending)
        raw.set_trace_callback(None)
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {ran[-1]}")]
    engine.dispose()
    assert any(f" {index} (" in step for step in plan), plan
    assert not any(step.startswith("SCAN sessions") for step in plan)
    if len(query.get("statuses", ())) < 2:  # a page of each is sorted, and no more
        assert not any("TEMP B-TREE" in step for step in plan), plan
