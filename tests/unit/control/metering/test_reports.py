from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.metering.reports import WIDTHS, Wanted, Window, _cents, cost, usage
from intramuros.control.metering.usage import Spender, Use, record
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.model.cost import Tokens
from intramuros.control.store.db import Tx

DAY, HOUR, MINUTE = (WIDTHS[name][0] for name in ("1d", "1h", "1m"))
START = 1_760_000_000_000_000 // DAY * DAY
TWO_DAYS = Window(START, START + 2 * DAY, DAY)
HERE = Spender("wrkspc_test", "apikey_1")
THERE = Spender("wrkspc_other", "", "svac_1")


@pytest.fixture
def used(tx: Tx, known: Catalogue) -> Tx:
    opus = Use("claude-opus-5", Tokens(100, 20, 30, 40, 50), 2)
    record(tx, known, START, HERE, opus)
    record(tx, known, START + DAY - 1, HERE, opus)
    record(tx, known, START + DAY, THERE, Use("claude-haiku-4-5", Tokens(7), speed="fast"))
    record(tx, known, START - 1, HERE, opus)
    record(tx, known, START + 2 * DAY, HERE, opus)
    record(tx, known, START + HOUR, HERE, Use("scripted/free", Tokens(1, 1)))
    return tx


def test_usage_adds_up_by_bucket(used: Tx) -> None:
    first, second = usage(used, TWO_DAYS, Wanted())
    assert first["results"] == [
        {
            "account_id": None,
            "api_key_id": None,
            "cache_creation": {"ephemeral_1h_input_tokens": 100, "ephemeral_5m_input_tokens": 80},
            "cache_read_input_tokens": 60,
            "context_window": None,
            "inference_geo": None,
            "model": None,
            "output_tokens": 41,
            "server_tool_use": {"web_search_requests": 4},
            "service_account_id": None,
            "service_tier": None,
            "uncached_input_tokens": 201,
            "workspace_id": None,
        }
    ]
    assert first["ending_at"] == second["starting_at"]
    assert [r["uncached_input_tokens"] for r in second["results"]] == [7]


def test_intervals_without_use_are_there_and_empty(used: Tx) -> None:
    hours = usage(used, Window(START, START + 4 * HOUR, HOUR), Wanted())
    assert [len(hour["results"]) for hour in hours] == [1, 1, 0, 0]
    minutes = usage(used, Window(START, START + 3 * MINUTE, MINUTE), Wanted())
    assert [len(minute["results"]) for minute in minutes] == [1, 0, 0]
    assert usage(used, Window(START, START, DAY), Wanted()) == []


def test_groups_name_what_they_are_apart_by(used: Tx) -> None:
    names = ("api_key_id", "model", "service_account_id", "speed", "workspace_id", "account_id")
    _, second = usage(used, TWO_DAYS, Wanted(names))
    (found,) = second["results"]
    assert {name: found[name] for name in names} == {
        "api_key_id": None,
        "model": "claude-haiku-4-5-20251001",
        "service_account_id": "svac_1",
        "speed": "fast",
        "workspace_id": "wrkspc_other",
        "account_id": None,
    }
    first, _ = usage(used, TWO_DAYS, Wanted(("workspace_id", "model")))
    assert {(r["workspace_id"], r["model"]) for r in first["results"]} == {
        (None, "claude-opus-5"),  # the default workspace is shown as none
        (None, "scripted/free"),
    }


@pytest.mark.parametrize(
    ("filters", "tokens"),
    [
        ({"model": ["claude-opus-5"]}, 200),
        ({"model": ["claude-opus-5", "scripted/free"]}, 201),
        ({"workspace_id": ["wrkspc_other"]}, 7),
        ({"workspace_id": ["wrkspc_other"], "model": ["claude-opus-5"]}, 0),
        ({"api_key_id": ["apikey_1"], "context_window": ["0-200k"]}, 201),
        ({"speed": ["fast"]}, 7),
        ({"service_tier": ["batch"]}, 0),
        ({"account_id": ["user_1"]}, 0),
        ({"model": []}, 0),
    ],
)
def test_filters_count_only_what_they_name(
    used: Tx, filters: dict[str, list[str]], tokens: int
) -> None:
    found = usage(used, TWO_DAYS, Wanted((), filters))
    assert sum(r["uncached_input_tokens"] for day in found for r in day["results"]) == tokens


def total(days: list[dict[str, Any]]) -> float:
    return sum(float(r["amount"]) for day in days for r in day["results"])


def test_costs_are_exact_and_described(used: Tx, known: Catalogue) -> None:
    plain = cost(used, TWO_DAYS, Wanted(), known)
    assert [len(day["results"]) for day in plain] == [1, 1]
    described = cost(used, TWO_DAYS, Wanted(("description", "workspace_id")), known)
    assert total(plain) == pytest.approx(total(described))
    by_type = {r["token_type"]: r for r in described[0]["results"]}
    assert set(by_type) == {
        "uncached_input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation.ephemeral_5m_input_tokens",
        "cache_creation.ephemeral_1h_input_tokens",
        None,
    }
    assert by_type["uncached_input_tokens"] == {
        "amount": "0.1",  # 200 tokens at 5 dollars a million
        "context_window": "0-200k",
        "cost_type": "tokens",
        "currency": "USD",
        "description": "Claude Opus 5 Usage - Input Tokens",
        "inference_geo": "not_available",
        "model": "claude-opus-5",
        "service_tier": "standard",
        "token_type": "uncached_input_tokens",
        "workspace_id": None,
    }
    assert (by_type[None]["cost_type"], by_type[None]["amount"]) == ("web_search", "4")
    assert {r["workspace_id"] for r in described[1]["results"]} == {"wrkspc_other"}


def test_what_costs_nothing_is_no_cost(tx: Tx, known: Catalogue) -> None:
    record(tx, known, START, HERE, Use("scripted/free", Tokens(5, 5)))
    record(tx, known, START, HERE, Use("claude-opus-5", Tokens(5), service_tier="priority"))
    for groups in ((), ("description",)):
        assert [day["results"] for day in cost(tx, TWO_DAYS, Wanted(groups), known)] == [[], []]


@given(st.integers(0, 10**18))
def test_amounts_lose_nothing(nanocents: int) -> None:
    text = _cents(nanocents)
    whole, _, rest = text.partition(".")
    assert int(whole) * 10**9 + int(rest.ljust(9, "0") or 0) == nanocents
    assert not text.endswith(".")
