from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from intramuros.control.metering.usage import MAX_TOKENS, NANO, Spender, Use, read, record
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.model.cost import Tokens
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import spend_days, usage_minutes

AT = 1_700_000_000_000_000
WHO = Spender("wrkspc_test", "apikey_1")


def test_a_provider_is_read_carefully() -> None:
    usage: dict[str, Any] = {
        "input_tokens": 11,
        "output_tokens": 7,
        "cache_read_input_tokens": 5,
        "cache_creation_input_tokens": 10,
        "cache_creation": {"ephemeral_1h_input_tokens": 4, "ephemeral_5m_input_tokens": 6},
        "server_tool_use": {"web_search_requests": 2},
        "speed": "fast",
        "service_tier": "batch",
        "inference_geo": "us",
    }
    assert read("m", usage) == Use("m", Tokens(11, 7, 5, 6, 4), 2, "fast", "batch", "us")
    assert read("m", {"cache_creation_input_tokens": 3}).tokens == Tokens(cache_write_5m=3)


@pytest.mark.parametrize("bad", [None, -5, "7", True, 1.5, [], {}])
def test_what_is_no_count_counts_nothing(bad: object) -> None:
    usage = {
        "input_tokens": bad,
        "cache_creation": bad,
        "server_tool_use": bad,
        "speed": bad,
        "service_tier": bad,
    }
    assert read("m", usage) == Use("m")
    assert read("m", {"input_tokens": 10**30}).tokens.input == MAX_TOKENS


def test_requests_of_a_minute_add_up_in_one_row(tx: Tx, known: Catalogue) -> None:
    use = Use("claude-opus-5", Tokens(1_000_000, 1_000_000, 0, 0, 0), 1)
    cost = record(tx, known, AT, WHO, use)
    assert Decimal(cost) / NANO == 3001  # 5 and 25 dollars, and a cent for the search
    record(tx, known, AT + 1, WHO, use)
    (row,) = tx.execute(select(usage_minutes)).all()
    assert (row.input, row.output_nanocents, row.web_searches) == (2_000_000, 5000 * NANO, 2)
    assert row.minute_us % 60_000_000 == 0
    assert row.context_window == "200k-1M"
    days = {r.scope_key: r.nanocents for r in tx.execute(select(spend_days)).all()}
    assert days == {"organization": 6002 * NANO, "wrkspc_test": 6002 * NANO}


def test_rows_are_apart_by_minute_key_model_and_context(tx: Tx, known: Catalogue) -> None:
    record(tx, known, AT, WHO, Use("claude-opus-4-5", Tokens(1)))
    record(tx, known, AT, WHO, Use("claude-opus-4-5-20251101", Tokens(1)))
    record(tx, known, AT + 60_000_000, WHO, Use("claude-opus-4-5", Tokens(1)))
    record(tx, known, AT, Spender("wrkspc_test"), Use("claude-opus-4-5", Tokens(1)))
    record(tx, known, AT, WHO, Use("claude-opus-4-5", Tokens(200_001)))
    rows = tx.execute(select(usage_minutes)).all()
    assert sorted(row.input for row in rows) == [1, 1, 2, 200_001]
    assert len({row.model for row in rows}) == 1  # an alias is the same model


def test_a_model_without_a_price_is_counted_and_costs_nothing(tx: Tx, known: Catalogue) -> None:
    assert record(tx, known, AT, WHO, Use("scripted/x" + "y" * 500, Tokens(5))) == 0
    (row,) = tx.execute(select(usage_minutes)).all()
    assert (row.input, row.input_nanocents, len(row.model)) == (5, 0, 256)
    assert tx.execute(select(spend_days)).all() == []


def test_a_single_token_of_the_cheapest_kind_is_not_lost(tx: Tx, known: Catalogue) -> None:
    price = known.price("claude-opus-5")
    assert price is not None
    one = record(tx, known, AT, WHO, Use("claude-opus-5", Tokens(cache_read=1)))
    assert one == int(price.cache_read * 10**5)
