"""``/v1/organizations``: rate limits and spend limits."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from intramuros.control.api.access import Gate, OrgAdmin, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.catalog.kinds import DEFAULT_PAGE
from intramuros.control.identity.principal import Principal, Scope
from intramuros.control.metering import rate_limits, spend_limits
from intramuros.control.metering.groups import GroupType
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.limits import RateLimitUpdate, SpendLimitSet

router = APIRouter(prefix="/v1/organizations", tags=["limits"])

MAX_PAGE: Final = 1000
READS_BETA: Final = "spend-limit-reads-2026-09-26"
_NO_SEATS: Final = "effective spend limits are of members with seats, which this organization lacks"

Reader = Annotated[
    Principal, Depends(Gate(scope=Scope.ORG_ADMIN, beta=READS_BETA, organization=True))
]
LimitBody = Annotated[RateLimitUpdate, Depends(Body(RateLimitUpdate))]
SpendBody = Annotated[SpendLimitSet, Depends(Body(SpendLimitSet))]


async def _paging(limit: int | None = None, page: str | None = None) -> tuple[int, str | None]:
    """Read the page's parameters; without a limit everything comes at once (R370)."""
    return check_limit(limit, MAX_PAGE, MAX_PAGE), page or None


PagingDep = Annotated[tuple[int, str | None], Depends(_paging)]


@router.get("/rate_limits")
async def find(
    _caller: OrgAdmin,
    svc: ServicesDep,
    paging: PagingDep,
    group_type: GroupType | None = None,
    model: str | None = None,
) -> Response:
    """List the organization's rate limits."""
    found = rate_limits.entries(svc.meter.rates.groups, group_type, model)
    bound = {"list": "rate_limits", "type": group_type, "model": model}
    return reply(_page(svc, found, "id", bound, paging))


@router.get("/workspaces/{workspace_id}/rate_limits")
async def find_own(
    _caller: OrgAdmin,
    svc: ServicesDep,
    workspace_id: str,
    paging: PagingDep,
    group_type: GroupType | None = None,
    *,
    include_inherited: bool = False,
) -> Response:
    """List a workspace's own rate limits, or all that it lives under."""
    groups = svc.meter.rates.groups
    found = await svc.db.read(
        lambda tx: rate_limits.of_workspace(
            tx, groups, workspace_id, group_type, inherited=include_inherited
        )
    )
    bound = {"list": workspace_id, "type": group_type, "inherited": include_inherited}
    return reply(_page(svc, found, "rate_limit_id", bound, paging))


@router.post("/workspaces/{workspace_id}/rate_limits/{rate_limit_id}")
async def change(
    caller: OrgAdmin, svc: ServicesDep, workspace_id: str, rate_limit_id: str, body: LimitBody
) -> Response:
    """Set and clear a workspace's limits in one group."""
    actor, rates = actor_of(svc, caller), svc.meter.rates
    target = (workspace_id, rate_limit_id)
    return reply(await svc.db.write(lambda tx: rate_limits.change(tx, actor, rates, target, body)))


async def _spend_query(
    svc: ServicesDep,
    scope_type: Annotated[list[str] | None, Query(alias="scope_type[]", max_length=20)] = None,
    workspace_id: str | None = None,
    limit: int | None = None,
    page: str | None = None,
) -> tuple[spend_limits.Query, Mapping[str, Any]]:
    bound = {"list": "spend_limits", "scopes": scope_type, "workspace": workspace_id}
    after = None
    if page:
        at_us, last_id = svc.cursors.open(bound, page)
        after = (at_us, last_id)
    size = check_limit(limit, DEFAULT_PAGE, MAX_PAGE)
    return spend_limits.Query(size, after, scope_type, workspace_id), bound


@router.get("/spend_limits")
async def find_spend(
    _caller: Reader,
    svc: ServicesDep,
    wanted: Annotated[tuple[spend_limits.Query, Mapping[str, Any]], Depends(_spend_query)],
) -> Response:
    """List the spend limits, newest first."""
    query, bound = wanted
    rows, more = await svc.db.page(lambda tx: spend_limits.find(tx, query, svc.meter.cap(tx)))
    next_page = svc.cursors.seal(bound, (rows[-1].created_us, rows[-1].id)) if more else None
    return reply(page([spend_limits.shown(row) for row in rows], next_page))


@router.post("/spend_limits")
async def set_spend(caller: OrgAdmin, svc: ServicesDep, body: SpendBody) -> Response:
    """Set the spend limit of a scope and a period, whether there was one or not."""
    actor = actor_of(svc, caller)

    def work(tx: Tx) -> Mapping[str, Any]:
        made = spend_limits.set_limit(tx, actor, body)
        svc.meter.capped(tx)
        return made

    return reply(await svc.db.write(work))


@router.get("/spend_limits/effective")
async def find_effective(_caller: OrgAdmin) -> Response:
    """Say that nobody here has a seat, as the official service says to organizations like this."""
    raise InvalidRequest(_NO_SEATS, code="organization_type_not_supported")


@router.get("/spend_limits/{spend_limit_id}")
async def retrieve_spend(_caller: OrgAdmin, svc: ServicesDep, spend_limit_id: str) -> Response:
    """Return a spend limit."""
    found = await svc.db.read(lambda tx: spend_limits.get(tx, spend_limit_id, svc.meter.cap(tx)))
    return reply(found)


@router.delete("/spend_limits/{spend_limit_id}")
async def delete_spend(caller: OrgAdmin, svc: ServicesDep, spend_limit_id: str) -> Response:
    """Delete a spend limit."""
    actor = actor_of(svc, caller)

    def work(tx: Tx) -> Mapping[str, Any]:
        gone = spend_limits.remove(tx, actor, spend_limit_id, svc.meter.cap(tx))
        svc.meter.capped(tx)
        return gone

    return reply(await svc.db.write(work))


def _page(
    svc: Services,
    entries: Sequence[Mapping[str, Any]],
    key: str,
    bound: Mapping[str, object],
    paging: tuple[int, str | None],
) -> dict[str, object]:
    limit, cursor = paging
    start = 0
    if cursor is not None:
        (last,) = svc.cursors.open(bound, cursor)
        at = [index for index, entry in enumerate(entries) if entry[key] == last]
        if not at:
            raise InvalidRequest("page: the list has changed; start again without it")
        start = at[0] + 1
    shown = entries[start : start + limit]
    more = start + limit < len(entries)
    return page(shown, svc.cursors.seal(bound, (shown[-1][key],)) if more else None)
