import pytest
from sqlalchemy import func, select

from intramuros.control.store import deliveries, outbox
from intramuros.control.store.db import Tx
from intramuros.control.store.webhook_tables import webhook_deliveries, webhook_events
from intramuros.kernel.timing import ManualClock, to_micros
from tests.fakes.outbox import listen

LIMIT = 3


def tell(tx: Tx, clock: ManualClock, resource_id: str) -> None:
    outbox.tell(tx, clock, "vault.created", workspace_id="wrkspc_test", resource_id=resource_id)
    clock.advance(1)


def counts(tx: Tx) -> tuple[int, int]:
    tables = (webhook_deliveries, webhook_events)
    one, two = (tx.scalar(select(func.count()).select_from(table)) for table in tables)
    return int(one or 0), int(two or 0)


def next_id(tx: Tx, clock: ManualClock, *apart: str) -> str:
    found = deliveries.next_due(tx, "whep_1", to_micros(clock.now()), apart)
    assert found is not None
    return found


@pytest.fixture
def endpoint_id(tx: Tx) -> str:
    return listen(tx, "vault.created")


def test_the_oldest_is_due_first_but_for_those_under_way(
    tx: Tx, clock: ManualClock, endpoint_id: str
) -> None:
    for number in range(3):
        tell(tx, clock, f"vlt_{number}")
    seen: list[str] = []
    for number in range(3):
        event_id = next_id(tx, clock, *seen)
        attempt = deliveries.begin(tx, endpoint_id, event_id, LIMIT)
        assert attempt is not None
        assert (attempt.data["id"], attempt.number) == (f"vlt_{number}", 1)
        seen.append(event_id)
    assert deliveries.next_due(tx, endpoint_id, to_micros(clock.now()), seen) is None


def test_a_postponed_delivery_waits(tx: Tx, clock: ManualClock, endpoint_id: str) -> None:
    tell(tx, clock, "vlt_1")
    attempt = deliveries.begin(tx, endpoint_id, next_id(tx, clock), LIMIT)
    assert attempt is not None
    later_us = to_micros(clock.now()) + 5_000_000
    deliveries.postpone(tx, attempt, later_us)
    assert deliveries.next_due(tx, endpoint_id, later_us - 1, ()) is None
    assert deliveries.next_due(tx, endpoint_id, later_us, ()) == attempt.event_id
    assert deliveries.next_due_us(tx, endpoint_id) == later_us


def test_an_event_stays_until_its_last_delivery_has_ended(tx: Tx, clock: ManualClock) -> None:
    for name in ("whep_1", "whep_2"):
        listen(tx, "vault.created", endpoint_id=name)
    tell(tx, clock, "vlt_1")
    event_id = next_id(tx, clock)
    deliveries.end(tx, "whep_1", event_id)
    assert counts(tx) == (1, 1)
    deliveries.end(tx, "whep_2", event_id)
    assert counts(tx) == (0, 0)


def test_what_is_dropped_for_one_endpoint_stays_for_the_other(tx: Tx, clock: ManualClock) -> None:
    for name in ("whep_1", "whep_2"):
        listen(tx, "vault.created", endpoint_id=name)
    listen(tx, "vault.deleted", endpoint_id="whep_3")
    tell(tx, clock, "vlt_1")
    deliveries.drop_all(tx, "whep_1")
    deliveries.drop_all(tx, "whep_3")
    assert counts(tx) == (1, 1)
    deliveries.drop_all(tx, "whep_2")
    assert counts(tx) == (0, 0)


def test_a_delivery_has_so_many_attempts_whatever_became_of_them(
    tx: Tx, clock: ManualClock, endpoint_id: str
) -> None:
    tell(tx, clock, "vlt_1")
    event_id = next_id(tx, clock)
    begun = [deliveries.begin(tx, endpoint_id, event_id, LIMIT) for _ in range(LIMIT)]
    assert [attempt and attempt.number for attempt in begun] == [1, 2, 3]
    assert deliveries.begin(tx, endpoint_id, event_id, LIMIT) is None
    assert counts(tx) == (0, 0)
    assert deliveries.begin(tx, endpoint_id, event_id, LIMIT) is None


def test_only_the_newest_attempt_counts(tx: Tx, clock: ManualClock, endpoint_id: str) -> None:
    tell(tx, clock, "vlt_1")
    event_id = next_id(tx, clock)
    first, second = (deliveries.begin(tx, endpoint_id, event_id, LIMIT) for _ in range(2))
    assert first is not None
    assert second is not None
    assert not deliveries.is_newest(tx, first)
    assert deliveries.is_newest(tx, second)
    deliveries.end(tx, endpoint_id, event_id)
    assert not deliveries.is_newest(tx, second)
