from dataclasses import replace
from decimal import Decimal

import pytest

from intramuros.control.model.base import ModelReply, ModelRequest, Usage
from intramuros.control.model.catalogue import Price
from intramuros.control.model.cost import UNITS_PER_CENT, running_cost, tokens_cost
from intramuros.control.session.usage import (
    UsageTotals,
    add,
    answered_by,
    capped,
    list_cost,
    priced,
    searched,
    snapshot,
)
from intramuros.control.store.records import Record

PRICE = Price(
    input=Decimal(5),
    output=Decimal(25),
    cache_read=Decimal("0.50"),
    cache_write_5m=Decimal("6.25"),
    cache_write_1h=Decimal(10),
)
CENT = UNITS_PER_CENT
HOUR_US = 3600 * 1_000_000


def reply(*counts: int, price: Price | None = PRICE) -> ModelReply:
    used = Usage(*counts)
    return ModelReply((), "end_turn", used, price and tokens_cost(price, used.tokens))


def after(totals: UsageTotals, *replies: ModelReply) -> UsageTotals:
    for one in replies:
        totals = add(totals, one.usage.counters, priced(one))
    return totals


def result(**private: object) -> Record:
    return Record("sesn_1", 1, "sevt_1", "agent.tool_result", 0, {}, private=private or None)


def test_c10_29_usage_adds_up_and_tells_the_ages_of_the_cache_apart() -> None:
    first, second = reply(100, 20, 30, 40, 10), reply(1, 2, 3, 4)
    totals = after(UsageTotals(), first, second)
    shown = snapshot(totals, 1_500_000)
    assert shown == {
        "input_tokens": 101,
        "output_tokens": 22,
        "cache_creation": {"ephemeral_5m_input_tokens": 23, "ephemeral_1h_input_tokens": 10},
        "cache_read_input_tokens": 44,
        "active_seconds": 1.5,
        "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
        "list_cost": {"amount": "0", "currency": "USD"},
    }
    assert first.cost is not None
    assert second.cost is not None
    assert totals.spent == first.cost + second.cost
    cheaper = replace(first.usage, cache_creation_1h_input_tokens=0)
    assert first.cost - tokens_cost(PRICE, cheaper.tokens) == 10 * 375 * CENT // 10**6


def test_more_hour_tokens_than_tokens_never_make_a_price_negative() -> None:
    tokens = Usage(0, 0, 5, 0, 9).tokens
    assert (tokens.cache_write_5m, tokens.cache_write_1h) == (0, 5)


def test_r283_searches_and_running_time_are_part_of_the_cost() -> None:
    totals = searched(searched(UsageTotals(), result(web_searches=3)), result())
    assert list_cost(totals, HOUR_US) == (3 + 8) * CENT
    shown = snapshot(totals, HOUR_US)
    assert shown["list_cost"] == {"amount": "11", "currency": "USD"}
    assert shown["server_tool_use"] == {"web_search_requests": 3, "web_fetch_requests": 0}


def test_R289_a_threads_cost_leaves_running_time_out() -> None:
    totals = searched(UsageTotals(), result(web_searches=3))
    assert snapshot(totals, HOUR_US, runtime=False)["list_cost"]["amount"] == "3"
    assert snapshot(totals, HOUR_US, runtime=False)["active_seconds"] == 3600


@pytest.mark.rule("R288")
def test_c12_11_the_cap_is_exact_and_what_is_shown_is_rounded() -> None:
    # 0.5 cents of output less one microsecond short of it
    totals = after(UsageTotals(), reply(0, 200))
    assert totals.spent == CENT // 2
    assert snapshot(totals, 0)["list_cost"]["amount"] == "1"
    assert not capped(1, totals, 0)
    half_us = (CENT // 2) // running_cost(1)
    assert not capped(1, totals, half_us - 1)
    assert capped(1, totals, half_us)
    assert not capped(None, totals, HOUR_US**2)


def test_r281_what_has_no_price_cannot_be_measured() -> None:
    totals = after(UsageTotals(), reply(0, 0, price=None))
    assert not totals.unpriced, "nothing was used, so nothing is unknown"
    totals = after(totals, reply(1, 0, price=None), reply(1, 1))
    assert totals.unpriced
    assert "list_cost" not in snapshot(totals, 0)
    assert capped(10**15, totals, 0)


def test_the_log_names_the_model_that_answered_and_the_one_that_was_asked() -> None:
    asked = ModelRequest("first", [])
    assert answered_by(asked, ModelReply((), "end_turn")) == {"model": "first"}
    assert answered_by(asked, ModelReply((), "end_turn", model="second")) == {
        "model": "second",
        "asked_model": "first",
    }
