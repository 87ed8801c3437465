"""What use costs at list prices, exactly. Pure.

Amounts are whole numbers of one small unit, so that sums never round: the ninth part of a
trillionth of a cent. In it every price is whole: a token at any price of up to eight decimals of a
dollar per million tokens, a web search, and a microsecond of running time. Only what people see is
rounded (contract 12.11, R283, R288).
"""

from decimal import Decimal
from typing import Final, NamedTuple

from intramuros.control.model.catalogue import Price

UNITS_PER_CENT: Final = 9 * 10**12
CURRENCY: Final = "USD"

# 10 dollars per 1,000 web searches; web fetches cost nothing.
_SEARCH_UNITS: Final = UNITS_PER_CENT
# 0.08 dollars per hour of a session's running time.
_MICROSECOND_UNITS: Final = 8 * UNITS_PER_CENT // (3600 * 1_000_000)
# A dollar per million tokens is 0.0001 cents a token.
_UNITS_PER_DOLLAR_MTOK: Final = UNITS_PER_CENT // 10**4


class Tokens(NamedTuple):
    """Tokens of one or more requests to one model at one speed, each kind apart from the others.

    Args:
        input: read, neither from the cache nor into it.
        cache_write_5m: read into the cache for five minutes.
        cache_write_1h: read into the cache for an hour.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0


def tokens_cost(price: Price, tokens: Tokens) -> int:
    """Return what tokens cost, in units.

    Args:
        price: the model's, at the speed that the request ran at.
    """
    return sum(
        rate(getattr(price, kind)) * count for kind, count in tokens._asdict().items() if count
    )


def rate(dollars_per_mtok: Decimal) -> int:
    """Return the price of one token, in units.

    Raises:
        ValueError: the price has more than eight decimals, so that it would have to be rounded.
    """
    units = dollars_per_mtok * _UNITS_PER_DOLLAR_MTOK
    if units != int(units):
        raise ValueError(f"a price of {dollars_per_mtok} has more than eight decimals")
    return int(units)


def searches_cost(searches: int) -> int:
    """Return what web searches cost, in units."""
    return searches * _SEARCH_UNITS


def running_cost(active_us: int) -> int:
    """Return what a session's running time costs, in units; the time in microseconds."""
    return active_us * _MICROSECOND_UNITS


def whole_cents(units: int) -> int:
    """Return an amount rounded to the nearest cent, half a cent upwards."""
    return (2 * units + UNITS_PER_CENT) // (2 * UNITS_PER_CENT)


def exact_cents(units: int, decimals: int = 6) -> str:
    """Return an amount in cents as decimal text, rounded half up and without trailing zeros."""
    scale = 10**decimals
    whole, part = divmod((2 * units * scale + UNITS_PER_CENT) // (2 * UNITS_PER_CENT), scale)
    digits = f"{part:0{decimals}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def shown(units: int) -> dict[str, str]:
    """Return an amount as the API shows it: whole cents as text (contract 12.1, 12.11)."""
    return amount(whole_cents(units))


def amount(cents: int) -> dict[str, str]:
    """Return whole cents as the API writes money."""
    return {"amount": str(cents), "currency": CURRENCY}
