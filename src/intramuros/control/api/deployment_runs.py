"""``/v1/deployment_runs``."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from intramuros.control.api.access import Developer, ServicesDep
from intramuros.control.api.bounds import BoundsDep
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.deployment import present, runs
from intramuros.control.deployment.runs import DEFAULT_PAGE, MAX_PAGE
from intramuros.protocol.resources.deployments import TriggerType

router = APIRouter(prefix="/v1/deployment_runs", tags=["deployments"])


async def _filters(
    bounds: BoundsDep,
    deployment_id: str | None = None,
    trigger_type: TriggerType | None = None,
    *,
    has_error: bool | None = None,
) -> dict[str, Any]:
    """Return the filters as fields of :class:`runs.Query`."""
    return {
        "deployment_id": deployment_id,
        "has_error": has_error,
        "trigger_type": trigger_type,
        "from_us": bounds.from_us,
        "until_us": bounds.until_us,
    }


FiltersDep = Annotated[dict[str, Any], Depends(_filters)]


@router.get("")
async def find(
    caller: Developer,
    svc: ServicesDep,
    filters: FiltersDep,
    limit: int | None = None,
    page_cursor: Annotated[str | None, Query(alias="page")] = None,
) -> Response:
    """List runs, newest first; of a deployment that does not exist there are none (R232)."""
    size = check_limit(limit, DEFAULT_PAGE, MAX_PAGE)
    bound = {"list": "deployment_runs", "workspace": caller.workspace_id, **filters}
    after = None
    if page_cursor:
        at_us, last_id = svc.cursors.open(bound, page_cursor)
        after = (at_us, last_id)
    query = runs.Query(size, after, **filters)
    found, more = await svc.db.page(lambda tx: runs.find(tx, caller.workspace_id, query))
    next_page = svc.cursors.seal(bound, (found[-1].created_us, found[-1].id)) if more else None
    return reply(page([present.run(row) for row in found], next_page))


@router.get("/{run_id}")
async def retrieve(caller: Developer, svc: ServicesDep, run_id: str) -> Response:
    """Return a run."""
    row = await svc.db.read(lambda tx: runs.get(tx, caller.workspace_id, run_id))
    return reply(present.run(row))
