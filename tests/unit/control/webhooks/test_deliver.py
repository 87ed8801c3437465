from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from sqlalchemy import select

from intramuros.control.store import leases, outbox
from intramuros.control.store.webhook_tables import webhook_events
from intramuros.control.webhooks import deliver
from intramuros.control.webhooks.deliver import Deliverer, DeliverSettings
from intramuros.control.webhooks.desk import Patience
from intramuros.control.webhooks.post import Message, Result
from intramuros.control.webhooks.serve import AT_ONCE
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import SystemClock
from tests.fakes.postman import DELIVERED, FAILED, Office
from tests.waiting import until

pytestmark = pytest.mark.anyio

A, B = "https://a.example/", "https://b.example/"


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """On the real clock, with little patience."""
    made = Office(tmp_path, SystemClock(), Patience(0.05, 0.2, 3600))
    await made.open()
    yield made
    made.db.close()


@asynccontextmanager
async def delivering(
    office: Office, *, wait: bool = True, **settings: float
) -> AsyncIterator[Stop]:
    """Deliver until the block ends, and see that it stops."""
    stop = Stop()
    quick = DeliverSettings(**{"poll_s": 0.05, **settings})
    deliverer = Deliverer(office.desk, "me", lambda: 0.0, quick)
    async with anyio.create_task_group() as group:
        group.start_soon(deliverer.run, stop)
        yield stop
        if wait:
            stop.request()
        else:
            group.cancel_scope.cancel()


async def empty(office: Office) -> bool:
    rows = await office.db.read(lambda tx: tx.execute(select(webhook_events.c.id)).all())
    return not rows


async def done(office: Office) -> None:
    with anyio.fail_after(60):
        while not await empty(office):  # noqa: ASYNC110  rows raise no event
            await anyio.sleep(0.01)


async def test_what_is_told_is_delivered_to_each_endpoint(office: Office) -> None:
    for url in (A, B):
        await office.endpoint(url)
    async with delivering(office):
        for number in range(10):
            await office.tell(f"vlt_{number}")
        await done(office)
    assert sorted(office.postman.about(A)) == sorted(office.postman.about(B))
    assert len(set(office.postman.about(A))) == 10


async def test_R276_what_waits_at_the_start_is_delivered(office: Office) -> None:
    await office.endpoint(A)
    await office.tell()
    async with delivering(office):
        await done(office)
    assert len(office.postman.sent) == 1


async def test_a_hint_is_not_needed(office: Office) -> None:
    await office.endpoint(A)
    async with delivering(office):
        await anyio.sleep(0.1)
        await office.db.write(lambda tx: office._tell(tx, "vlt_1", "vault.created"))
        await until(lambda: office.postman.sent)


async def test_failures_are_retried_until_one_succeeds(office: Office) -> None:
    await office.endpoint(A)

    async def third(_message: Message) -> Result:
        return DELIVERED if len(office.postman.sent) == 3 else FAILED

    office.postman.reply = third
    async with delivering(office):
        await office.tell()
        await done(office)
    assert len(office.postman.sent) == 3
    assert len(set(office.postman.about(A))) == 1


async def test_a_slow_endpoint_delays_itself_alone(office: Office) -> None:
    for url in (A, B):
        await office.endpoint(url)
    hold, at_once = anyio.Event(), 0

    async def slow(message: Message) -> Result:
        nonlocal at_once
        if message.url == A:
            at_once += 1
            await hold.wait()
        return DELIVERED

    office.postman.reply = slow
    async with delivering(office, endpoints=2):
        for number in range(AT_ONCE + 4):
            await office.tell(f"vlt_{number}")
        await until(lambda: len(office.postman.about(B)) == AT_ONCE + 4)
        await until(lambda: at_once == AT_ONCE)
        await anyio.sleep(0.1)
        assert at_once == AT_ONCE
        hold.set()
        await done(office)
    assert len(office.postman.about(A)) == AT_ONCE + 4


async def test_something_new_need_not_wait_for_what_is_under_way(office: Office) -> None:
    await office.endpoint(A)
    hold = anyio.Event()

    async def first_is_slow(_message: Message) -> Result:
        if len(office.postman.sent) == 1:
            await hold.wait()
        return DELIVERED

    office.postman.reply = first_is_slow
    async with delivering(office):
        await office.tell("vlt_1")
        await until(lambda: len(office.postman.sent) == 1)
        await office.tell("vlt_2")
        await until(lambda: len(office.postman.sent) == 2)
        hold.set()
        await done(office)


async def test_an_attempt_under_way_may_end_when_a_stop_is_asked_for(office: Office) -> None:
    await office.endpoint(A)
    begun, hold = anyio.Event(), anyio.Event()

    async def slow(_message: Message) -> Result:
        begun.set()
        await hold.wait()
        return DELIVERED

    office.postman.reply = slow
    async with delivering(office) as stop:
        await office.tell("vlt_1")
        await begun.wait()
        # Before the other is there: it could be on its way by the time that telling of it returns.
        stop.request()
        await office.tell("vlt_2")
        hold.set()
    assert len(office.postman.sent) == 1
    assert not await empty(office)
    async with delivering(office):
        await done(office)
    assert len(office.postman.sent) == 2


async def test_a_broken_off_attempt_is_made_again_at_once(office: Office) -> None:
    await office.endpoint(A)
    begun = anyio.Event()

    async def never(_message: Message) -> Result:
        begun.set()
        await anyio.sleep_forever()
        return DELIVERED

    office.postman.reply = never
    async with delivering(office, wait=False):
        await office.tell()
        await begun.wait()
    office.postman.reply = None
    async with delivering(office):
        await done(office)
    assert len(office.postman.sent) == 2
    assert len(set(office.postman.about(A))) == 1


async def test_what_a_dead_process_held_is_delivered_when_its_lease_expires(
    office: Office,
) -> None:
    await office.endpoint(A)
    await office.tell()

    def die(tx: object) -> None:
        lease = leases.claim(tx, outbox.QUEUE, "dead", office.desk.now_us(), 300_000)
        assert lease is not None
        assert office.desk.begin(tx, lease, ()) is not None

    await office.db.write(die)
    async with delivering(office):
        await anyio.sleep(0.1)
        assert office.postman.sent == []
        await done(office)
    assert len(office.postman.sent) == 1


async def test_a_lease_is_kept_alive_while_attempts_last(office: Office) -> None:
    await office.endpoint(A)
    hold = anyio.Event()

    async def slow(_message: Message) -> Result:
        await hold.wait()
        return DELIVERED

    office.postman.reply = slow
    async with delivering(office, lease_s=0.3), delivering(office, lease_s=0.3):
        await office.tell()
        await anyio.sleep(1)
        assert len(office.postman.sent) == 1
        hold.set()
        await done(office)
    assert len(office.postman.sent) == 1


async def test_a_failure_of_ours_pauses_the_endpoint_and_no_other(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "FAILED_PAUSE_S", 0.2)
    for url in (A, B):
        await office.endpoint(url)
    tries = 0

    async def broken(message: Message) -> Result:
        nonlocal tries
        if message.url == A:
            tries += 1
            if tries == 1:
                raise OperatorError("broken", "mend it")
        return DELIVERED

    office.postman.reply = broken
    async with delivering(office):
        await office.tell()
        await until(lambda: office.postman.about(B))
        await done(office)
    assert tries == 2
