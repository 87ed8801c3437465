from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.model.catalogue import Price, shipped_catalogue
from intramuros.control.model.cost import (
    UNITS_PER_CENT,
    Tokens,
    exact_cents,
    rate,
    running_cost,
    searches_cost,
    shown,
    tokens_cost,
    whole_cents,
)

PRICES = st.decimals(min_value=0, max_value=1000, places=8)
COUNTS = st.integers(min_value=0, max_value=10**10)


def price(*dollars: object) -> Price:
    names = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
    return Price.model_validate(dict(zip(names, map(str, dollars), strict=True)))


def test_a_known_bill() -> None:
    opus = price(5, 25, "0.50", "6.25", 10)
    used = Tokens(
        input=1_000_000,
        output=100_000,
        cache_read=2_000_000,
        cache_write_5m=40_000,
        cache_write_1h=1_000,
    )
    # 5 + 2.5 + 1 + 0.25 + 0.01 dollars
    assert tokens_cost(opus, used) == 876 * UNITS_PER_CENT
    assert searches_cost(1000) == 1000 * UNITS_PER_CENT
    assert running_cost(3600 * 1_000_000) == 8 * UNITS_PER_CENT


@given(st.tuples(PRICES, PRICES, PRICES, PRICES, PRICES), st.tuples(*[COUNTS] * 5), COUNTS)
def test_amounts_are_exact_and_add_up_however_they_are_cut(
    dollars: tuple[Decimal, ...], counts: tuple[int, ...], active_us: int
) -> None:
    at, used = price(*dollars), Tokens(*counts)
    whole = tokens_cost(at, used) + running_cost(active_us)
    exact = sum(Fraction(d) * 100 * c / 10**6 for d, c in zip(dollars, counts, strict=True))
    exact += Fraction(8 * active_us, 3600 * 10**6)
    assert Fraction(whole, UNITS_PER_CENT) == exact
    half = Tokens(*(count // 2 for count in counts))
    rest = Tokens(*(count - count // 2 for count in counts))
    parts = tokens_cost(at, half) + tokens_cost(at, rest)
    assert parts + running_cost(active_us // 2) + running_cost(active_us - active_us // 2) == whole
    assert abs(whole_cents(whole) - exact) <= Fraction(1, 2)
    assert abs(Fraction(exact_cents(whole)) - exact) <= Fraction(1, 2 * 10**6)


def test_only_what_is_shown_is_rounded_to_the_nearest_cent() -> None:
    half = UNITS_PER_CENT // 2
    assert [whole_cents(units) for units in (0, half - 1, half, UNITS_PER_CENT + half - 1)] == [
        0,
        0,
        1,
        1,
    ]
    assert shown(125 * UNITS_PER_CENT) == {"amount": "125", "currency": "USD"}
    assert exact_cents(0) == "0"
    assert exact_cents(UNITS_PER_CENT * 5 // 2) == "2.5"
    assert exact_cents(UNITS_PER_CENT // 3, decimals=3) == "0.333"


def test_every_listed_price_is_whole_in_units() -> None:
    listed = [e.prices for e in shipped_catalogue().entries if e.prices is not None]
    assert listed
    for prices in listed:
        for speed in (prices.standard, prices.fast):
            if speed is not None:
                assert all(rate(dollars) > 0 for dollars in dict(speed).values())


def test_a_price_that_would_have_to_be_rounded_is_refused() -> None:
    with pytest.raises(ValueError, match="eight decimals"):
        rate(Decimal("0.000000001"))
    with pytest.raises(ValueError, match="decimal places"):
        price("0.000000001", 1, 1, 1, 1)
