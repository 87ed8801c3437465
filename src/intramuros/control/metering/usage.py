"""What models were used for: added up by the minute, and by the day in money, as it happens.

Both sums grow in the transaction that records the request, so reports and limits know exactly what
the records know. Money is kept as it was when it was spent: a new price changes no past.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Table, text

from intramuros.control.metering.periods import DAY_US
from intramuros.control.metering.rates import ORGANIZATION
from intramuros.control.model.catalogue import Catalogue, Price
from intramuros.control.model.cost import UNITS_PER_CENT, Tokens, rate, searches_cost
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import spend_days, usage_minutes
from intramuros.control.store.prepared import Prepared

MINUTE_US: Final = 60_000_000
NANO: Final = 10**9
UNITS_PER_NANOCENT: Final = UNITS_PER_CENT // NANO
LONG_CONTEXT_TOKENS: Final = 200_000
# Counters of the provider's that are not to be believed beyond this.
MAX_TOKENS: Final = 10**10

KINDS: Final = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
DIMENSIONS: Final = (
    "workspace_id",
    "model",
    "api_key_id",
    "service_account_id",
    "speed",
    "service_tier",
    "context_window",
    "inference_geo",
)
COUNTERS: Final = (
    *KINDS,
    *(f"{kind}_nanocents" for kind in KINDS),
    "web_searches",
    "web_search_nanocents",
)


@dataclass(frozen=True)
class Spender:
    """On whose behalf a model was asked; ids that do not apply are empty."""

    workspace_id: str
    api_key_id: str = ""
    service_account_id: str = ""


@dataclass(frozen=True)
class Use:
    """What one request used.

    Args:
        model: as it was asked for.
        speed, service_tier, inference_geo: as the provider said; empty where it did not.
    """

    model: str
    tokens: Tokens = field(default_factory=Tokens)
    web_searches: int = 0
    speed: str = "standard"
    service_tier: str = "standard"
    inference_geo: str = "not_available"


def read(model: str, usage: Mapping[str, Any]) -> Use:
    """Return what a Messages API usage object says; what is missing or no count is nothing."""
    written = _count(usage, "cache_creation_input_tokens")
    creation = usage.get("cache_creation")
    hour = _count(creation, "ephemeral_1h_input_tokens") if isinstance(creation, Mapping) else 0
    server = usage.get("server_tool_use")
    searches = _count(server, "web_search_requests") if isinstance(server, Mapping) else 0
    tokens = Tokens(
        _count(usage, "input_tokens"),
        _count(usage, "output_tokens"),
        _count(usage, "cache_read_input_tokens"),
        max(0, written - hour),
        hour,
    )
    return Use(
        model,
        tokens,
        searches,
        _one_of(usage, "speed", ("standard", "fast")),
        _one_of(usage, "service_tier", ("standard", "batch", "priority")),
        _one_of(usage, "inference_geo", ("not_available", "global", "us")),
    )


def record(tx: Tx, known: Catalogue, at_us: int, spender: Spender, use: Use) -> int:
    """Add a request to the sums and return what it cost, in billionths of a cent."""
    entry = known.find(use.model)
    # A speed without a price of its own costs at least what the model does.
    price = known.price(use.model, use.speed) or known.price(use.model)
    costs = _costs(price, use)
    tokens = use.tokens
    total_input = tokens.input + tokens.cache_read + tokens.cache_write_5m + tokens.cache_write_1h
    key: dict[str, int | str] = {
        "minute_us": at_us - at_us % MINUTE_US,
        "workspace_id": spender.workspace_id,
        "model": (entry.id if entry else use.model)[:256],
        "api_key_id": spender.api_key_id,
        "service_account_id": spender.service_account_id,
        "speed": use.speed,
        "service_tier": use.service_tier,
        "context_window": "0-200k" if total_input <= LONG_CONTEXT_TOKENS else "200k-1M",
        "inference_geo": use.inference_geo,
    }
    counts = {**tokens._asdict(), **costs, "web_searches": use.web_searches}
    tx.take_turn()
    tx.later(_ADD_USAGE, {**key, **counts})
    total = sum(costs.values())
    if total:
        day_us = at_us - at_us % DAY_US
        scopes = (ORGANIZATION, spender.workspace_id)
        tx.run_many(
            _ADD_SPENT,
            [{"scope_key": scope, "day_us": day_us, "nanocents": total} for scope in scopes],
        )
    return total


def _costs(price: Price | None, use: Use) -> dict[str, int]:
    costs = {
        f"{kind}_nanocents": _nanocents(count * rate(getattr(price, kind)))
        if price and count
        else 0
        for kind, count in use.tokens._asdict().items()
    }
    return {**costs, "web_search_nanocents": _nanocents(searches_cost(use.web_searches))}


def _nanocents(units: int) -> int:
    """Return an amount of cost units in billionths of a cent, a half upwards."""
    return (2 * units + UNITS_PER_NANOCENT) // (2 * UNITS_PER_NANOCENT)


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return min(max(0, value), MAX_TOKENS)


def _adding(table: Table) -> Prepared:
    """Return the statement that adds counters to a row, which is made if it is missing.

    Built once, for it runs with every model request.
    """
    names = table.columns.keys()
    key = [column.name for column in table.primary_key]
    grown = (f"{n} = {table.name}.{n} + excluded.{n}" for n in names if n not in key)
    statement = text(
        f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608  names of our own schema
        f"VALUES ({', '.join(f':{name}' for name in names)}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(grown)}"
    )
    return Prepared(statement)


_ADD_USAGE: Final = _adding(usage_minutes)
_ADD_SPENT: Final = _adding(spend_days)


def _one_of(usage: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = usage.get(name)
    return value if value in known else known[0]
