import json
from typing import Any

import anyio
import pytest
from sqlalchemy import insert

from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.metering import meter as module
from intramuros.control.metering import spend_limits
from intramuros.control.metering.meter import MEDIA_TOKENS, Meter, SpendLimitReached, Wish, estimate
from intramuros.control.metering.rates import Key
from intramuros.control.metering.usage import Spender, Use
from intramuros.control.model.cost import Tokens
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.metering_tables import rate_limits
from intramuros.kernel.errors import RateLimited
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.limits import SpendLimitSet
from tests.waiting import until

pytestmark = pytest.mark.anyio

WHO = Spender("wrkspc_test", "apikey_1")
CENT = Use("claude-opus-5", Tokens(output=400))


def wish(*content: object) -> Wish:
    return Wish(WHO, "claude-opus-5", content, {"request": "req_1"})


async def cap(db: Database, meter: Meter, actor: Actor, amount: str | None) -> None:
    body: Any = {"amount": amount, "scope": {"type": "organization"}}

    def work(tx: Tx) -> None:
        spend_limits.set_limit(tx, actor, SpendLimitSet.model_validate(body))
        meter.capped(tx)

    await db.write(work)


async def test_over_a_spend_limit_requests_are_refused_and_the_refusal_is_recorded(
    db: Database, meter: Meter, actor: Actor
) -> None:
    await meter.refresh()
    await cap(db, meter, actor, "1")
    ticket = await meter.admit(wish())
    await db.write(lambda tx: meter.record(tx, ticket, WHO, CENT))
    with pytest.raises(SpendLimitReached, match="reached your specified API usage limits"):
        await meter.admit(wish())
    records = [json.loads(line) for line in await db.read(lambda tx: list(audit.read_lines(tx)))]
    assert records[-1]["kind"] == "model.refused"
    assert "req_1" in json.dumps(records[-1])
    await cap(db, meter, actor, "2")
    await meter.admit(wish())
    await cap(db, meter, actor, None)
    await db.write(lambda tx: meter.count(tx, WHO, CENT))
    await meter.admit(wish())


async def test_requests_in_flight_are_let_finish_and_the_next_is_refused(
    db: Database, meter: Meter, actor: Actor
) -> None:
    await cap(db, meter, actor, "1")
    tickets = [await meter.admit(wish()) for _ in range(20)]
    for ticket in tickets:
        await db.write(lambda tx, ticket=ticket: meter.record(tx, ticket, WHO, CENT))
    with pytest.raises(SpendLimitReached):
        await meter.admit(wish())
    spent = await db.read(
        lambda tx: spend_limits.spent(tx, "organization", "monthly", 1767225600 * 10**6)
    )
    assert spent == 20 * 10**9  # every one of them is counted


async def test_what_is_rolled_back_is_not_counted(db: Database, meter: Meter, actor: Actor) -> None:
    await cap(db, meter, actor, "1")

    def fails(tx: Tx) -> None:
        meter.count(tx, WHO, CENT)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await db.write(fails)
    await meter.admit(wish())


async def test_many_at_once_never_get_more_than_the_limit(db: Database, meter: Meter) -> None:
    group = meter.rates.groups.of_model("claude-opus-5")
    row = {"workspace_id": "wrkspc_test", "group_id": group.id, "limiter": "requests_per_minute"}
    await db.write(lambda tx: tx.execute(insert(rate_limits).values(**row, value=10)))
    await meter.refresh()
    admitted: list[object] = []

    async def ask() -> None:
        try:
            admitted.append(await meter.admit(wish()))
        except RateLimited:
            return

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(ask)
    assert len(admitted) == 10
    assert meter.headers(WHO, "claude-opus-5")["anthropic-ratelimit-requests-remaining"] == "0"


async def test_another_processs_change_is_learned(
    db: Database, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFRESH_S", 0.01)
    group = meter.rates.groups.of_model("claude-opus-5")
    row = {"workspace_id": "wrkspc_test", "group_id": group.id, "limiter": "requests_per_minute"}
    stop = Stop()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(meter.run, stop)
        await db.write(lambda tx: tx.execute(insert(rate_limits).values(**row, value=0)))
        await until(lambda: meter.rates.limited("wrkspc_test", group))
        stop.request()
    with pytest.raises(RateLimited):
        await meter.admit(wish())


def test_prompts_are_estimated_without_reading_media(clock: ManualClock) -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "A" * 10**6}}
    assert estimate(["x" * 400, {"text": "y" * 40, "n": 5, "t": True}, None]) == 110
    assert estimate([image]) == MEDIA_TOKENS + len("image") // 4
    assert clock.monotonic() == 0


async def test_a_look_that_a_change_overtook_changes_nothing(
    db: Database, meter: Meter, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = meter.rates.groups.of_model("claude-opus-5")
    plain = db.read

    async def slow(work: Any) -> Any:
        found = await plain(work)
        meter.rates.override({Key("wrkspc_test", group.id, "requests_per_minute"): 0})
        await cap(db, meter, actor, "0")
        return found

    monkeypatch.setattr(db, "read", slow)
    await meter.refresh()
    monkeypatch.undo()
    assert meter.rates.limited("wrkspc_test", group)
    with pytest.raises(SpendLimitReached):
        await meter.admit(wish())
