import anyio
import pytest

from intramuros.control.store import leases, outbox
from intramuros.control.store.leases import Lease
from intramuros.control.webhooks import serve
from intramuros.control.webhooks.post import Message, Result
from intramuros.control.webhooks.serve import Serving
from intramuros.kernel.service import Stop
from tests.fakes.postman import DELIVERED, FAILED, Office

pytestmark = pytest.mark.anyio


async def held(office: Office) -> Lease:
    now_us = office.desk.now_us()
    lease = await office.db.write(
        lambda tx: leases.claim(tx, outbox.QUEUE, "me", now_us, 60_000_000)
    )
    assert lease is not None
    return lease


async def ready_us(office: Office) -> int | None:
    return await office.db.read(lambda tx: leases.next_ready_us(tx, outbox.QUEUE))


def serving(office: Office, lease: Lease, lease_s: float = 15.0) -> Serving:
    return Serving(office.desk, lease, lease_s, lambda: 0.0)


async def test_everything_due_is_sent_and_the_endpoint_given_back_for_good(
    office: Office,
) -> None:
    await office.endpoint()
    for number in range(9):
        await office.tell(f"vlt_{number}")
    await serving(office, await held(office)).run(Stop())
    assert len({message.event_id for message in office.postman.sent}) == 9
    assert await ready_us(office) is None


async def test_a_retry_holds_nothing(office: Office) -> None:
    await office.endpoint()
    await office.tell()

    async def fail(_message: Message) -> Result:
        return FAILED

    office.postman.reply = fail
    await serving(office, await held(office)).run(Stop())
    assert len(office.postman.sent) == 1
    assert await ready_us(office) == office.desk.now_us() + 5_000_000


async def test_after_its_term_an_endpoint_goes_to_the_back(office: Office) -> None:
    await office.endpoint()
    for number in range(2 * serve.AT_ONCE):
        await office.tell(f"vlt_{number}")

    async def slow(_message: Message) -> Result:
        office.clock.advance(serve.TERM_S)
        return DELIVERED

    office.postman.reply = slow
    await serving(office, await held(office)).run(Stop())
    assert 0 < len(office.postman.sent) < 2 * serve.AT_ONCE
    assert await ready_us(office) == office.desk.now_us()


async def test_who_loses_the_lease_breaks_off(office: Office) -> None:
    endpoint_id = await office.endpoint()
    await office.tell()
    lease = await held(office)

    async def lose(_message: Message) -> Result:
        await office.db.write(lambda tx: leases.drop(tx, outbox.QUEUE, endpoint_id))
        await anyio.sleep_forever()
        return DELIVERED

    office.postman.reply = lose
    with anyio.fail_after(60):
        await serving(office, lease, lease_s=0.1).run(Stop())
