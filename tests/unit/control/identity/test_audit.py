import json

import pytest
from sqlalchemy import update

from intramuros.control.identity import audit, origin
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import audit as table
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.audit import BrokenChain, verify


def test_records_chain_in_the_callers_transaction(tx: Tx, clock: ManualClock) -> None:
    audit.record(tx, clock, "agent.create", workspace_id="wrkspc_test", fields={"id": "agent_1"})
    head = audit.record(
        tx, clock, "tool.call", workspace_id="wrkspc_test", session_id="sesn_1", fields={}
    )
    lines = list(audit.read_lines(tx))
    assert verify(lines) == head == audit.read_head(tx)
    assert head.seq == 2
    first, second = (json.loads(line) for line in lines)
    assert first["fields"] == {"id": "agent_1", "workspace_id": "wrkspc_test"}
    assert second["fields"] == {"session_id": "sesn_1", "workspace_id": "wrkspc_test"}


def test_a_request_that_is_served_is_named(tx: Tx, clock: ManualClock) -> None:
    with origin.bound("10.0.0.1", "sdk", "req_1"):
        audit.record(tx, clock, "agent.create", workspace_id=None, fields={"id": "agent_1"})
        audit.record(tx, clock, "session.calls", workspace_id=None, fields={})
    act, traffic = (json.loads(line)["fields"] for line in audit.read_lines(tx))
    assert "origin" not in traffic
    assert act["origin"] == {"address": "10.0.0.1", "agent": "sdk", "request_id": "req_1"}


def test_a_rolled_back_act_leaves_no_record(tx: Tx, clock: ManualClock) -> None:
    savepoint = tx.connection.begin_nested()
    audit.record(tx, clock, "agent.create", workspace_id=None, fields={"id": "agent_1"})
    savepoint.rollback()
    assert list(audit.read_lines(tx)) == []


def test_a_changed_line_is_found(tx: Tx, clock: ManualClock) -> None:
    for number in range(3):
        audit.record(tx, clock, "a.b", workspace_id=None, fields={"n": number})
    line = list(audit.read_lines(tx))[1].replace('"n":1', '"n":7')
    tx.execute(update(table).where(table.c.seq == 2).values(line=line))
    with pytest.raises(BrokenChain):
        verify(audit.read_lines(tx))
