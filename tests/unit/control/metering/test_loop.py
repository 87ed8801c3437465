from dataclasses import replace

import pytest
from sqlalchemy import select

from intramuros.control.catalog import geography
from intramuros.control.metering.groups import Groups
from intramuros.control.metering.loop import LoopGate, count
from intramuros.control.metering.meter import Meter, SpendLimitReached, Wish
from intramuros.control.metering.rates import Key, Ticket
from intramuros.control.metering.spend_limits import Reached
from intramuros.control.model.base import Failure, ModelError, ModelRequest, Usage
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.metering_tables import usage_minutes
from intramuros.control.store.records import Record
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import ManualClock

pytestmark = pytest.mark.anyio

REQUEST = ModelRequest("claude-opus-5", [{"role": "user", "content": "x" * 400}], "s", [])


async def test_a_session_over_a_rate_is_to_try_again_and_then_gets_through(
    meter: Meter, db: Database, groups: Groups, clock: ManualClock
) -> None:
    group = groups.of_model("claude-opus-5")
    meter.rates.override(
        {
            Key("w", group.id, "requests_per_minute"): 2,
            Key("w", group.id, "tokens_per_minute"): 1000,
        }
    )
    gate = LoopGate(meter, db)
    first = await gate.admit("w", "sesn_1", REQUEST)
    first.settle(Usage(100, 20, 0, 0))
    (await gate.admit("w", "sesn_1", REQUEST)).settle(None)
    with pytest.raises(ModelError) as refused:
        await gate.admit("w", "sesn_2", REQUEST)
    assert (refused.value.failure, refused.value.retryable) == (Failure.RATE_LIMITED, True)
    assert refused.value.retry_after_s == 30
    clock.advance(30)
    await gate.admit("w", "sesn_2", REQUEST)


async def test_a_session_without_money_is_not_to_try_again(
    meter: Meter, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broke(_: Wish) -> Ticket:
        raise SpendLimitReached(Reached("spl_1", "You have reached it."))

    monkeypatch.setattr(meter, "admit", broke)
    with pytest.raises(ModelError, match="reached it") as refused:
        await LoopGate(meter, db).admit("w", "sesn_1", REQUEST)
    assert (refused.value.failure, refused.value.retryable) == (Failure.BILLING, False)


def record(type: str, body: dict[str, object], private: dict[str, object] | None) -> Record:
    return Record("sesn_1", 1, "sevt_1", type, 0, body, private=private)


def test_ends_of_requests_are_counted_and_nothing_else(tx: Tx, meter: Meter) -> None:
    usage = {"input_tokens": 5, "output_tokens": 6}
    end, model = "span.model_request_end", {"model": "claude-opus-5"}
    written = [
        record(end, {"model_usage": usage, "is_error": False}, model),
        record(end, {"model_usage": usage, "is_error": True}, model),
        record(end, {"model_usage": None, "is_error": False}, model),
        record("agent.message", {"model_usage": usage}, model),
        record("internal.outcome_graded", {"usage": {"input_tokens": 0}}, None),
    ]
    count(meter, tx, ("wrkspc_test", "claude-sonnet-5"), written)
    (row,) = tx.execute(select(usage_minutes)).all()
    assert (row.workspace_id, row.model, row.input, row.output, row.api_key_id) == (
        "wrkspc_test",
        "claude-opus-5",
        5,
        6,
        "",
    )


def test_rows_that_name_no_model_count_for_the_agents(tx: Tx, meter: Meter) -> None:
    usage = {"input_tokens": 5, "output_tokens": 6, "cache_creation_input_tokens": 9}
    written = [
        record("internal.outcome_graded", {"usage": usage}, None),
        record("internal.call_judged", {"usage": usage}, None),
        record("internal.call_judged", {"usage": dict.fromkeys(usage, 0)}, None),
        record("span.model_request_end", {"model_usage": usage}, {"cache_1h": 4}),
    ]
    count(meter, tx, ("wrkspc_test", "claude-sonnet-5"), written)
    (row,) = tx.execute(select(usage_minutes)).all()
    assert (row.model, row.input, row.cache_write_5m, row.cache_write_1h) == (
        "claude-sonnet-5",
        15,
        23,
        4,
    )


async def test_c5_28_every_request_is_asked_where_it_may_be_answered(
    meter: Meter, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def narrow(_: Tx, workspace_id: str, model: object) -> None:
        asked.append((workspace_id, model))
        raise InvalidRequest("this workspace allows us, not 'global'")

    monkeypatch.setattr(geography, "check", narrow)
    gate = LoopGate(meter, db)
    await gate.admit("w", "sesn_1", REQUEST)
    with pytest.raises(ModelError, match="allows us") as refused:
        await gate.admit("w", "sesn_1", replace(REQUEST, inference_geo="global"))
    assert asked == [("w", {"inference_geo": "global"})]
    assert not refused.value.retryable


def test_searches_count_and_cost_and_pages_do_not(tx: Tx, meter: Meter) -> None:
    written = [
        record("agent.tool_result", {"content": []}, {"web": {}, "web_searches": 2}),
        record("agent.tool_result", {"content": []}, {"web": {}}),
        record("agent.tool_result", {"content": []}, None),
    ]
    count(meter, tx, ("wrkspc_test", "claude-sonnet-5"), written)
    [row] = tx.execute(select(usage_minutes)).all()
    assert (row.workspace_id, row.web_searches) == ("wrkspc_test", 2)
    assert row.web_search_nanocents == 2 * 10**9, "a cent each"
