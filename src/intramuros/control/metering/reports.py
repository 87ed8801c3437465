"""Usage and cost reports over what was counted by the minute."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, false, func, select

from intramuros.control.identity.bootstrap import default_workspace
from intramuros.control.metering.usage import COUNTERS, KINDS, NANO
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import usage_minutes
from intramuros.kernel.timing import from_micros

Shown = dict[str, Any]

# Bucket width → microseconds, buckets by default, buckets at most.
WIDTHS: Final[Mapping[str, tuple[int, int, int]]] = {
    "1m": (60_000_000, 60, 1440),
    "1h": (3_600_000_000, 24, 168),
    "1d": (86_400_000_000, 7, 31),
}
# Nobody signs in to call a model: no request is an account's.
_NOBODYS: Final = "account_id"
_TOKEN_TYPES: Final[Mapping[str, tuple[str, str]]] = {
    "input": ("uncached_input_tokens", "Input Tokens"),
    "output": ("output_tokens", "Output Tokens"),
    "cache_read": ("cache_read_input_tokens", "Input Tokens, Cache Read"),
    "cache_write_5m": ("cache_creation.ephemeral_5m_input_tokens", "Input Tokens, Cache Write"),
    "cache_write_1h": ("cache_creation.ephemeral_1h_input_tokens", "Input Tokens, Cache Write 1h"),
}


@dataclass(frozen=True)
class Window:
    """Which buckets to show.

    Args:
        start_us, end_us: the first bucket's start and the last one's end, microseconds since the
            epoch, both on the grid.
        width_us: of a bucket.
    """

    start_us: int
    end_us: int
    width_us: int

    def starts(self) -> range:
        """Return where the buckets start, oldest first."""
        return range(self.start_us, self.end_us, self.width_us)


@dataclass(frozen=True)
class Wanted:
    """What to count, and apart by what.

    Args:
        group_by: names of dimensions.
        filters: dimension → the values that count; a dimension that is absent is not looked at.
    """

    group_by: Sequence[str] = ()
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)


def usage(tx: Tx, window: Window, wanted: Wanted) -> list[Shown]:
    """Return the buckets of a usage report, oldest first, empty ones included."""
    default = default_workspace(tx)
    grouped = [name for name in wanted.group_by if name != _NOBODYS]

    def item(row: Row[Any]) -> list[Shown]:
        known = {name: getattr(row, name) or None for name in grouped}
        if known.get("workspace_id") == default:
            known["workspace_id"] = None
        shown = {
            "account_id": None,
            "api_key_id": known.get("api_key_id"),
            "cache_creation": {
                "ephemeral_1h_input_tokens": row.cache_write_1h,
                "ephemeral_5m_input_tokens": row.cache_write_5m,
            },
            "cache_read_input_tokens": row.cache_read,
            "context_window": known.get("context_window"),
            "inference_geo": known.get("inference_geo"),
            "model": known.get("model"),
            "output_tokens": row.output,
            "server_tool_use": {"web_search_requests": row.web_searches},
            "service_account_id": known.get("service_account_id"),
            "service_tier": known.get("service_tier"),
            "uncached_input_tokens": row.input,
            "workspace_id": known.get("workspace_id"),
        }
        return [{**shown, "speed": known["speed"]} if "speed" in known else shown]

    return _buckets(window, _sums(tx, window, wanted, grouped), item)


def cost(tx: Tx, window: Window, wanted: Wanted, known: Catalogue) -> list[Shown]:
    """Return the buckets of a cost report, oldest first, empty ones included."""
    default = default_workspace(tx)
    apart = ["workspace_id"] if "workspace_id" in wanted.group_by else []
    described = "description" in wanted.group_by
    details = ["model", "context_window", "service_tier", "inference_geo"] if described else []
    tiers = {**wanted.filters, "service_tier": ("standard", "batch")}

    def item(row: Row[Any]) -> list[Shown]:
        workspace = row.workspace_id if apart else None
        base = {**_EMPTY_COST, "workspace_id": None if workspace == default else workspace}
        amounts = {kind: getattr(row, f"{kind}_nanocents") for kind in KINDS}
        searches = row.web_search_nanocents
        if not described:
            total = sum(amounts.values()) + searches
            return [{**base, "amount": _cents(total)}] if total else []
        shown = [
            {**base, **_described(row, kind, known), "amount": _cents(amount)}
            for kind, amount in amounts.items()
            if amount
        ]
        if searches:
            web = {"cost_type": "web_search", "description": "Web Search Usage"}
            shown.append({**base, **web, "amount": _cents(searches)})
        return shown

    rows = _sums(tx, window, Wanted((), tiers), [*apart, *details])
    return _buckets(window, rows, item)


_EMPTY_COST: Final[Mapping[str, Any]] = {
    "amount": "0",
    "context_window": None,
    "cost_type": None,
    "currency": "USD",
    "description": None,
    "inference_geo": None,
    "model": None,
    "service_tier": None,
    "token_type": None,
    "workspace_id": None,
}


def _described(row: Row[Any], kind: str, known: Catalogue) -> Shown:
    token_type, label = _TOKEN_TYPES[kind]
    entry = known.find(row.model)
    name = entry.display_name if entry else row.model
    return {
        "cost_type": "tokens",
        "description": f"{name} Usage - {label}",
        "model": row.model,
        "token_type": token_type,
        "context_window": row.context_window,
        "service_tier": row.service_tier,
        "inference_geo": row.inference_geo,
    }


def _sums(tx: Tx, window: Window, wanted: Wanted, grouped: Sequence[str]) -> Sequence[Row[Any]]:
    table = usage_minutes.c
    start = (table.minute_us - table.minute_us % window.width_us).label("start_us")
    dimensions = [table[name] for name in grouped]
    which: list[ColumnElement[bool]] = [
        table.minute_us >= window.start_us,
        table.minute_us < window.end_us,
    ]
    for name, values in wanted.filters.items():
        which.append(false() if name == _NOBODYS else table[name].in_(list(values)))
    sums = [func.sum(table[name]).label(name) for name in COUNTERS]
    query = select(start, *dimensions, *sums).where(*which).group_by(start, *dimensions)
    return tx.execute(query.order_by(start, *dimensions)).all()


def _buckets(
    window: Window, rows: Sequence[Row[Any]], item: Callable[[Row[Any]], list[Shown]]
) -> list[Shown]:
    results: dict[int, list[Shown]] = {start: [] for start in window.starts()}
    for row in rows:
        results[row.start_us].extend(item(row))
    return [
        {
            "starting_at": _stamp(start),
            "ending_at": _stamp(start + window.width_us),
            "results": found,
        }
        for start, found in results.items()
    ]


def _cents(nanocents: int) -> str:
    """Return an amount in cents as a decimal string, exactly."""
    whole, rest = divmod(nanocents, NANO)
    digits = f"{rest:09d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _stamp(at_us: int) -> str:
    return from_micros(at_us).strftime("%Y-%m-%dT%H:%M:%SZ")
