from sqlalchemy import select

from intramuros.control.identity import audit, compliance
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import activities
from intramuros.kernel.timing import ManualClock


def act(tx: Tx, clock: ManualClock, kind: str = "agent.create") -> None:
    audit.record(tx, clock, kind, workspace_id="wrkspc_test", fields={"id": "agent_1"})


def test_R373_records_are_captured_while_it_is_on(tx: Tx, clock: ManualClock) -> None:
    assert not compliance.enabled(tx)
    act(tx, clock)
    compliance.switch(tx, clock, on=True)
    act(tx, clock)
    act(tx, clock, "session.calls")  # no activity
    compliance.switch(tx, clock, on=False)
    act(tx, clock)
    compliance.switch(tx, clock, on=True)
    act(tx, clock)
    assert list(tx.execute(select(activities.c.seq)).scalars()) == [2, 5]
    assert len(list(audit.read_lines(tx))) == 5


def test_an_activity_goes_with_its_record(tx: Tx, clock: ManualClock) -> None:
    compliance.switch(tx, clock, on=True)
    savepoint = tx.connection.begin_nested()
    act(tx, clock)
    savepoint.rollback()
    assert tx.scalar(select(activities.c.seq)) is None
