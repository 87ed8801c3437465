"""What a session has used since it began, and what that costs at list prices. Pure.

Each request is priced once, when it ends, and the price stands in its record: the sum follows from
the log alone, and a new price list changes no past. Running time is priced as it passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from intramuros.control.model import cost
from intramuros.control.model.base import ModelReply, ModelRequest
from intramuros.control.store.records import Record

SECOND_US: Final = 1_000_000


@dataclass(frozen=True)
class UsageTotals:
    """Tokens, searches and money since the session began (contract 10.29).

    Args:
        cache_creation_input_tokens: tokens written to the cache, of both lifetimes.
        cache_creation_1h_input_tokens: those of them that live for an hour.
        web_searches: searches that this server made.
        spent: what tokens and searches have cost, in units of ``model/cost.py``.
        unpriced: whether something was used that has no list price, so that ``spent`` is not all.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    web_searches: int = 0
    spent: int = 0
    unpriced: bool = False


def priced(reply: ModelReply) -> dict[str, object]:
    """Return what the private part of a request's end says of its price; :func:`add` reads it."""
    hour = reply.usage.tokens.cache_write_1h
    return {"cost": reply.cost, **({"cache_1h": hour} if hour else {})}


def answered_by(asked: ModelRequest, reply: ModelReply) -> dict[str, object]:
    """Return what the private part of a request's end says of its model: the one that answered.

    Meters and traces read it. ``asked_model`` stands beside it where another one was asked first.
    """
    if reply.model is None or reply.model == asked.model:
        return {"model": asked.model}
    return {"model": reply.model, "asked_model": asked.model}


def add(totals: UsageTotals, counts: Mapping[str, int], private: Mapping[str, Any]) -> UsageTotals:
    """Return the totals after one more model request.

    Args:
        counts: the four counters of the request, as its end shows them.
        private: what :func:`priced` wrote.
    """
    spent = cast("int | None", private.get("cost"))
    unpriced = spent is None and any(counts.values())
    return replace(
        totals,
        **{name: getattr(totals, name) + count for name, count in counts.items()},
        cache_creation_1h_input_tokens=totals.cache_creation_1h_input_tokens
        + cast("int", private.get("cache_1h", 0)),
        spent=totals.spent + (spent or 0),
        unpriced=totals.unpriced or unpriced,
    )


def searched(totals: UsageTotals, record: Record) -> UsageTotals:
    """Return the totals after a result: ``web_searches`` in its private part are paid for."""
    count = cast("int", (record.private or {}).get("web_searches", 0))
    if not count:
        return totals
    spent = totals.spent + cost.searches_cost(count)
    return replace(totals, web_searches=totals.web_searches + count, spent=spent)


def running_us(active_us: int, since_us: int | None, now_us: int) -> int:
    """Return the microseconds spent running until now: before, and since it runs if it does."""
    return active_us + max(0, now_us - (now_us if since_us is None else since_us))


def list_cost(totals: UsageTotals, active_us: int) -> int:
    """Return the exact cost of tokens, searches and running time, in units (contract 12.11)."""
    return totals.spent + cost.running_cost(active_us)


def capped(cap_cents: int | None, totals: UsageTotals, active_us: int) -> bool:
    """Tell whether a budget is reached, or cannot be measured any more (contract 12.6, R281)."""
    if cap_cents is None:
        return False
    return totals.unpriced or list_cost(totals, active_us) >= cap_cents * cost.UNITS_PER_CENT


def snapshot(totals: UsageTotals, active_us: int, *, runtime: bool = True) -> dict[str, object]:
    """Return the usage as the API shows it (contract 10.27 to 10.29).

    Args:
        active_us: time spent running, in microseconds.
        runtime: whether the cost includes that time; a thread's does not (R289).
    """
    shown: dict[str, object] = {
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": totals.cache_creation_input_tokens
            - totals.cache_creation_1h_input_tokens,
            "ephemeral_1h_input_tokens": totals.cache_creation_1h_input_tokens,
        },
        "cache_read_input_tokens": totals.cache_read_input_tokens,
        "active_seconds": active_us / SECOND_US,
        "server_tool_use": {
            "web_search_requests": totals.web_searches,
            "web_fetch_requests": 0,  # they carry no charge and are not counted
        },
    }
    if not totals.unpriced:
        shown["list_cost"] = cost.shown(list_cost(totals, active_us if runtime else 0))
    return shown
