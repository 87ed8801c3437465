import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.identity import audit
from intramuros.control.store import deliveries, leases, outbox
from intramuros.control.store.deliveries import Attempt
from intramuros.control.store.leases import Lease, LostLease
from intramuros.control.webhooks import endpoints
from intramuros.control.webhooks.desk import MAX_ATTEMPTS, Patience
from intramuros.control.webhooks.post import Message, Outcome, Result
from intramuros.protocol.resources.webhooks import WorkspaceEndpointUpdate
from tests.fakes.outbox import waiting
from tests.fakes.postman import DELIVERED, FAILED, WORKSPACE, Office

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600


def no_spread() -> float:
    return 0.0


class Round:
    """Makes attempts one by one, as whoever serves an endpoint does."""

    def __init__(self, office: Office, endpoint_id: str) -> None:
        self.office, self.desk, self.id = office, office.desk, endpoint_id
        self.lease: Lease | None = None

    async def begin(self) -> tuple[Attempt, Message] | None:
        def work(tx: Any) -> tuple[Attempt, Message] | None:
            if self.lease is None:
                now_us = self.desk.now_us()
                leases.offer(tx, outbox.QUEUE, self.id, now_us)
                self.lease = leases.claim(tx, outbox.QUEUE, "me", now_us, 10**12)
            assert self.lease is not None
            return self.desk.begin(tx, self.lease, ())

        return await self.office.db.write(work)

    async def settle(self, attempt: Attempt, result: Result) -> None:
        await self.office.db.write(lambda tx: self.desk.settle(tx, attempt, result, no_spread))

    async def attempt(self, result: Result) -> Message | None:
        begun = await self.begin()
        if begun is None:
            return None
        await self.settle(begun[0], result)
        return begun[1]

    async def row(self) -> Any:
        return await self.office.db.read(lambda tx: endpoints.find_row(tx, self.id))

    async def waiting(self) -> int:
        return len(await self.office.db.read(lambda tx: waiting(tx, self.id)))


@pytest.fixture
async def turn(office: Office) -> Round:
    made = Round(office, await office.endpoint())
    assert await office.tell() == 1
    return made


async def test_an_attempt_is_in_the_audit_before_it_is_made(turn: Round) -> None:
    begun = await turn.begin()
    assert begun is not None
    attempt, message = begun
    lines = await turn.office.db.read(lambda tx: list(audit.read_lines(tx)))
    fields = json.loads(lines[-1])["fields"]
    assert json.loads(lines[-1])["kind"] == "webhook.send"
    assert (fields["event_id"], fields["endpoint_id"]) == (attempt.event_id, turn.id)
    assert fields["workspace_id"] == WORKSPACE
    assert message.secret.startswith("whsec_")
    assert message.secret not in "".join(lines)
    body = json.loads(message.body)
    assert body["id"] == message.event_id
    assert body["data"] == {
        "type": "vault.created",
        "id": "vlt_1",
        "organization_id": "org-uuid",
        "workspace_id": WORKSPACE,
    }


async def test_what_has_arrived_is_done(turn: Round) -> None:
    assert await turn.attempt(DELIVERED) is not None
    assert await turn.waiting() == 0
    assert await turn.begin() is None


async def test_R274_R270_c26_5_three_attempts_at_growing_waits_with_one_id(turn: Round) -> None:
    messages: list[Message] = []
    for wait_s in (5, 20):
        message = await turn.attempt(FAILED)
        assert message is not None
        messages.append(message)
        turn.office.clock.advance(wait_s - 0.001)
        assert await turn.begin() is None
        turn.office.clock.advance(0.001)
    last = await turn.attempt(FAILED)
    assert last is not None
    messages.append(last)
    assert await turn.waiting() == 0
    assert len({message.event_id for message in messages}) == 1
    assert len({message.body for message in messages}) == 1
    stamps = [message.headers()["webhook-timestamp"] for message in messages]
    assert [int(stamp) - int(stamps[0]) for stamp in stamps] == [0, 5, 25]
    assert len({message.headers()["webhook-signature"] for message in messages}) == MAX_ATTEMPTS
    assert (await turn.row()).state == "enabled"


@given(attempt=st.integers(1, MAX_ATTEMPTS), rand=st.floats(0, 1, exclude_max=True))
def test_R274_every_wait_is_between_5_and_120_seconds(attempt: int, rand: float) -> None:
    assert 5 <= Patience().wait_s(attempt, rand) <= 120


def test_waits_grow_and_are_spread() -> None:
    patience = Patience()
    assert patience.wait_s(1, 0) < patience.wait_s(1, 0.5) < patience.wait_s(1, 0.9)
    assert patience.wait_s(1, 0.3) < patience.wait_s(2, 0.3)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome.REDIRECTED, "auto-disabled: endpoint URL returned a redirect (3xx)"),
        (Outcome.NOT_PUBLIC, "auto-disabled: endpoint URL resolved to an invalid address"),
    ],
)
async def test_R272_R273_some_outcomes_disable_at_once(
    turn: Round, outcome: Outcome, reason: str
) -> None:
    await turn.office.tell("vlt_2")
    await turn.attempt(Result(outcome, "x"))
    row = await turn.row()
    assert (row.state, row.disabled_reason) == ("disabled", reason)
    assert await turn.waiting() == 0
    assert await turn.office.tell("vlt_3") == 0


async def fail_for(turn: Round, seconds: float, every_s: float = 3600.0) -> None:
    """Let deliveries fail for so long, one event after the other."""
    passed = 0.0
    while passed < seconds:
        await turn.office.tell()
        while await turn.attempt(FAILED):
            turn.office.clock.advance(20)
            passed += 20
        turn.office.clock.advance(every_s)
        passed += every_s


async def test_R275_a_day_of_failures_disables(turn: Round) -> None:
    await fail_for(turn, DAY_S - 7200)
    assert (await turn.row()).state == "enabled"
    await fail_for(turn, 3 * 3600)
    row = await turn.row()
    assert row.state == "disabled"
    assert row.disabled_reason == "auto-disabled after sustained delivery failures"


async def test_R275_one_success_resets_the_clock(turn: Round) -> None:
    await fail_for(turn, DAY_S - 7200)
    await turn.office.tell()
    while await turn.waiting():
        await turn.attempt(DELIVERED)
        turn.office.clock.advance(30)
    assert (await turn.row()).failing_since_us is None
    await fail_for(turn, DAY_S - 7200)
    assert (await turn.row()).state == "enabled"


async def test_a_secret_replaced_between_attempts_signs_the_next(turn: Round) -> None:
    first = await turn.attempt(FAILED)
    office = turn.office
    secret = await office.db.write(
        lambda tx: office.keeper.renew_secret(tx, office.actor, WORKSPACE, turn.id)
    )
    office.clock.advance(5)
    second = await turn.attempt(DELIVERED)
    assert first is not None
    assert second is not None
    assert first.secret != second.secret == secret
    assert first.event_id == second.event_id


async def test_a_url_replaced_between_attempts_is_where_the_next_goes(turn: Round) -> None:
    await turn.attempt(FAILED)
    office, request = turn.office, WorkspaceEndpointUpdate(url="https://new.example/")
    await office.db.write(
        lambda tx: office.keeper.update(tx, office.actor, WORKSPACE, turn.id, request)
    )
    office.clock.advance(5)
    second = await turn.attempt(DELIVERED)
    assert second is not None
    assert second.url == "https://new.example/"


def deleted(turn: Round) -> Callable[[Any], object]:
    return lambda tx: endpoints.remove(tx, turn.office.actor, WORKSPACE, turn.id)


def disabled(turn: Round) -> Callable[[Any], object]:
    request = WorkspaceEndpointUpdate(state="disabled")
    keeper = turn.office.keeper
    return lambda tx: keeper.update(tx, turn.office.actor, WORKSPACE, turn.id, request)


@pytest.mark.parametrize("gone", [deleted, disabled])
@pytest.mark.parametrize("result", [DELIVERED, FAILED, Result(Outcome.REDIRECTED, "301")])
async def test_an_endpoint_that_goes_during_an_attempt(
    turn: Round, gone: Callable[[Round], Callable[[Any], object]], result: Result
) -> None:
    begun = await turn.begin()
    assert begun is not None
    await turn.office.db.write(gone(turn))
    await turn.settle(begun[0], result)
    assert await turn.waiting() == 0
    if gone is deleted:
        with pytest.raises(LostLease):
            await turn.begin()
    else:
        assert await turn.begin() is None
        assert (await turn.row()).disabled_reason == ""


async def test_an_attempt_that_a_later_one_overtook_says_nothing(turn: Round) -> None:
    first = await turn.begin()
    second = await turn.begin()
    assert first is not None
    assert second is not None
    await turn.settle(first[0], Result(Outcome.REDIRECTED, "301"))
    assert (await turn.row()).state == "enabled"
    assert await turn.waiting() == 1
    await turn.settle(second[0], DELIVERED)
    assert await turn.waiting() == 0


async def test_attempts_that_were_begun_count_though_nothing_came_of_them(turn: Round) -> None:
    for _ in range(MAX_ATTEMPTS):
        assert await turn.begin() is not None
    assert await turn.begin() is None
    assert await turn.waiting() == 0


async def test_who_lost_the_lease_begins_nothing(turn: Round) -> None:
    await turn.begin()
    lease = turn.lease
    assert lease is not None
    await turn.office.db.write(lambda tx: leases.drop(tx, lease.queue, lease.key))
    with pytest.raises(LostLease):
        await turn.begin()


async def test_an_endpoint_is_given_back_until_something_is_due(turn: Round) -> None:
    desk, db = turn.desk, turn.office.db
    await turn.attempt(FAILED)
    lease = turn.lease
    assert lease is not None
    await db.write(lambda tx: desk.release(tx, lease))
    ready_us = await db.read(lambda tx: leases.next_ready_us(tx, outbox.QUEUE))
    assert ready_us == desk.now_us() + 5_000_000
    assert await db.read(lambda tx: deliveries.next_due_us(tx, turn.id)) == ready_us
