"""``/v1/dreams``."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from intramuros.control.api.access import Gate, ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.lists import PagingDep, time_bound
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.dreams import rows
from intramuros.control.identity.principal import Principal
from intramuros.control.store.db import Tx
from intramuros.protocol.envelope import DREAMING_BETA
from intramuros.protocol.resources.dreams import DreamCreate, Status

router = APIRouter(prefix="/v1/dreams", tags=["dreams"])

Dreamer = Annotated[Principal, Depends(Gate(beta=DREAMING_BETA))]
CreateBody = Annotated[DreamCreate, Depends(Body(DreamCreate))]


async def _filters(
    after: Annotated[str | None, Query(alias="created_at[gt]")] = None,
    before: Annotated[str | None, Query(alias="created_at[lt]")] = None,
    statuses: Annotated[list[Status] | None, Query(alias="statuses[]")] = None,
) -> dict[str, Any]:
    """Return the filters as fields of :class:`rows.Query` (R246)."""
    return {
        "created_gt_us": time_bound("created_at[gt]", after),
        "created_lt_us": time_bound("created_at[lt]", before),
        "statuses": sorted(set(statuses or ())),
    }


FiltersDep = Annotated[dict[str, Any], Depends(_filters)]


@router.post("")
async def create(caller: Dreamer, svc: ServicesDep, body: CreateBody) -> Response:
    """Start a dream."""

    def work(tx: Tx) -> dict[str, Any]:
        return svc.dreams.present(tx, [svc.dreams.create(tx, caller, body)])[0]

    return reply(await svc.db.write(work))


@router.get("")
async def find(
    caller: Dreamer, svc: ServicesDep, paging: PagingDep, filters: FiltersDep
) -> Response:
    """List dreams, newest first."""
    limit = check_limit(paging.limit, rows.DEFAULT_PAGE, rows.MAX_PAGE)
    bound = {
        "list": "dreams",
        "workspace": caller.workspace_id,
        "archived": paging.include_archived,
        **filters,
    }
    after = None
    if paging.page is not None:
        at_us, last_id = svc.cursors.open(bound, paging.page)
        after = (at_us, last_id)
    query = rows.Query(limit, after, include_archived=paging.include_archived, **filters)

    def work(tx: Tx) -> tuple[list[dict[str, Any]], tuple[int, str] | None]:
        found, more = svc.dreams.find(tx, caller, query)
        last = (found[-1].created_us, found[-1].id) if more else None
        return svc.dreams.present(tx, found), last

    shown, last = await svc.db.page(work)
    return reply(page(shown, None if last is None else svc.cursors.seal(bound, last)))


@router.get("/{dream_id}")
async def retrieve(caller: Dreamer, svc: ServicesDep, dream_id: str) -> Response:
    """Return a dream, archived or not."""

    def work(tx: Tx) -> dict[str, Any]:
        return svc.dreams.present(tx, [svc.dreams.get(tx, caller, dream_id)])[0]

    return reply(await svc.db.read(work))


@router.post("/{dream_id}/cancel")
async def cancel(caller: Dreamer, svc: ServicesDep, dream_id: str) -> Response:
    """Stop a dream."""

    def work(tx: Tx) -> dict[str, Any]:
        return svc.dreams.present(tx, [svc.dreams.cancel(tx, caller, dream_id)])[0]

    return reply(await svc.db.write(work))


@router.post("/{dream_id}/archive")
async def archive(caller: Dreamer, svc: ServicesDep, dream_id: str) -> Response:
    """Hide a dream that has ended."""

    def work(tx: Tx) -> dict[str, Any]:
        return svc.dreams.present(tx, [svc.dreams.archive(tx, caller, dream_id)])[0]

    return reply(await svc.db.write(work))
