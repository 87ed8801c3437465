"""``/v1/organizations/usage_report/messages`` and ``…/cost_report``: tokens, and their cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from intramuros.control.api.access import OrgAdmin, ServicesDep
from intramuros.control.api.lists import time_bound
from intramuros.control.api.pages import check_limit
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.metering import reports
from intramuros.control.metering.reports import WIDTHS, Wanted, Window
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import to_micros
from intramuros.protocol.envelope import BETA_HEADER, parse_betas

router = APIRouter(prefix="/v1/organizations", tags=["reports"])

SPEED_BETA: Final = "fast-mode-2026-02-01"
MAX_VALUES: Final = 100

UsageGroup = Literal[
    "account_id",
    "api_key_id",
    "context_window",
    "inference_geo",
    "model",
    "service_account_id",
    "service_tier",
    "speed",
    "workspace_id",
]
Tier = Literal["batch", "flex", "flex_discount", "priority", "priority_on_demand", "standard"]


@dataclass(frozen=True)
class _Pages:
    """The parameters of time and place that both reports have, as they came."""

    starting_at: str
    ending_at: str | None
    limit: int | None
    page: str | None


async def _pages(
    starting_at: str,
    ending_at: str | None = None,
    limit: int | None = None,
    page: str | None = None,
) -> _Pages:
    return _Pages(starting_at, ending_at, limit, page or None)


@dataclass(frozen=True)
class _Shown:
    """The buckets of a page, and the cursor of the next one."""

    window: Window
    next: str | None


PagesDep = Annotated[_Pages, Depends(_pages)]


def _values(name: str) -> Any:  # noqa: ANN401  the framework's own marker
    return Query(alias=f"{name}[]", max_length=MAX_VALUES)


async def _who(
    account_ids: Annotated[list[str] | None, _values("account_ids")] = None,
    api_key_ids: Annotated[list[str] | None, _values("api_key_ids")] = None,
    service_account_ids: Annotated[list[str] | None, _values("service_account_ids")] = None,
    workspace_ids: Annotated[list[str] | None, _values("workspace_ids")] = None,
) -> Mapping[str, Any]:
    return {
        "account_id": account_ids,
        "api_key_id": api_key_ids,
        "service_account_id": service_account_ids,
        "workspace_id": workspace_ids,
    }


async def _what(
    models: Annotated[list[str] | None, _values("models")] = None,
    speeds: Annotated[list[Literal["fast", "standard"]] | None, _values("speeds")] = None,
    service_tiers: Annotated[list[Tier] | None, _values("service_tiers")] = None,
    context_window: Annotated[
        list[Literal["0-200k", "200k-1M"]] | None, _values("context_window")
    ] = None,
    inference_geos: Annotated[
        list[Literal["global", "not_available", "us"]] | None, _values("inference_geos")
    ] = None,
) -> Mapping[str, Any]:
    return {
        "model": models,
        "speed": speeds,
        "service_tier": service_tiers,
        "context_window": context_window,
        "inference_geo": inference_geos,
    }


async def _usage_wanted(
    request: Request,
    svc: ServicesDep,
    who: Annotated[Mapping[str, Any], Depends(_who)],
    what: Annotated[Mapping[str, Any], Depends(_what)],
    group_by: Annotated[list[UsageGroup] | None, _values("group_by")] = None,
) -> Wanted:
    filters = {name: values for name, values in {**who, **what}.items() if values is not None}
    wanted = Wanted(sorted(set(group_by or ())), filters)
    betas = parse_betas(",".join(request.headers.getlist(BETA_HEADER)))
    if ("speed" in wanted.group_by or "speed" in filters) and SPEED_BETA not in betas:
        raise InvalidRequest(f"speed is in beta: send `{BETA_HEADER}: {SPEED_BETA}`")
    if "model" in filters:
        known = [svc.models.find(name) for name in filters["model"]]
        ids = [e.id if e else name for e, name in zip(known, filters["model"], strict=True)]
        filters["model"] = ids
    return wanted


@router.get("/usage_report/messages")
async def usage(
    _caller: OrgAdmin,
    svc: ServicesDep,
    pages: PagesDep,
    wanted: Annotated[Wanted, Depends(_usage_wanted)],
    bucket_width: Literal["1d", "1h", "1m"] = "1d",
) -> Response:
    """Report how many tokens models used, by minute, hour or day."""
    bound = {"report": "usage", "groups": wanted.group_by, "filters": wanted.filters}
    shown = _shown(svc, pages, bucket_width, bound)
    data = await svc.db.page(lambda tx: reports.usage(tx, shown.window, wanted))
    return reply({"data": data, "has_more": shown.next is not None, "next_page": shown.next})


@router.get("/cost_report")
async def cost(
    _caller: OrgAdmin,
    svc: ServicesDep,
    pages: PagesDep,
    group_by: Annotated[
        list[Literal["description", "workspace_id"]] | None, _values("group_by")
    ] = None,
    bucket_width: Literal["1d"] = "1d",
) -> Response:
    """Report what models cost at list price, by day."""
    wanted = Wanted(sorted(set(group_by or ())))
    bound = {"report": "cost", "groups": wanted.group_by}
    shown = _shown(svc, pages, bucket_width, bound)
    data = await svc.db.page(lambda tx: reports.cost(tx, shown.window, wanted, svc.models))
    return reply({"data": data, "has_more": shown.next is not None, "next_page": shown.next})


def _shown(svc: Services, pages: _Pages, width: str, bound: Mapping[str, Any]) -> _Shown:
    """Return the buckets of one page.

    Raises:
        InvalidRequest: times that are none or the wrong way round, a limit out of range.
    """
    width_us, default, maximum = WIDTHS[width]
    limit = check_limit(pages.limit, default, maximum)
    start_us = time_bound("starting_at", pages.starting_at) or 0
    end_us = time_bound("ending_at", pages.ending_at)
    if end_us is not None and end_us <= start_us:
        raise InvalidRequest("ending_at: must be after starting_at")
    start_us -= start_us % width_us
    now_us = to_micros(svc.clock.now())
    last_us = now_us - now_us % width_us + width_us  # the bucket that is filling counts
    if end_us is not None:
        last_us = min(last_us, end_us - end_us % width_us)
    place = {**bound, "width": width, "from": pages.starting_at, "to": pages.ending_at}
    if pages.page is not None:
        (start_us,) = svc.cursors.open(place, pages.page)
    page_end_us = min(last_us, start_us + limit * width_us)
    more = page_end_us < last_us
    window = Window(start_us, max(start_us, page_end_us), width_us)
    return _Shown(window, svc.cursors.seal(place, (window.end_us,)) if more else None)
