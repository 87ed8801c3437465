"""``/v1/organizations/telemetry_destinations``: where traces go."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from sqlalchemy import Row
from starlette.responses import Response

from intramuros.control.api.access import Gate, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.catalog.kinds import DEFAULT_PAGE
from intramuros.control.identity.principal import Principal, Scope
from intramuros.control.store.db import Tx
from intramuros.control.tracing import coverage, destinations
from intramuros.protocol.resources.telemetry import (
    MAX_IDS,
    DestinationCreate,
    DestinationUpdate,
)

router = APIRouter(prefix="/v1/organizations/telemetry_destinations", tags=["telemetry"])

BETA: Final = "telemetry-destinations-2026-08-11"
MAX_PAGE: Final = 1000

Admin = Annotated[Principal, Depends(Gate(scope=Scope.ORG_ADMIN, beta=BETA, organization=True))]
CreateBody = Annotated[DestinationCreate, Depends(Body(DestinationCreate))]
UpdateBody = Annotated[DestinationUpdate, Depends(Body(DestinationUpdate))]


async def _met(_caller: Admin, svc: ServicesDep, destination_id: str) -> int:
    """Return the version that a request meets when it comes in, before its body is read."""
    row = await svc.db.read(lambda tx: destinations.find_row(tx, destination_id))
    return int(row.version)


@router.post("")
async def create(caller: Admin, svc: ServicesDep, body: CreateBody) -> Response:
    """Register a destination."""
    actor = actor_of(svc, caller)

    def work(tx: Tx) -> Mapping[str, Any]:
        made = destinations.create(tx, actor, svc.exporter.rules, body)
        svc.recorder.changed(tx)
        return made

    return reply(await svc.db.write(work))


@router.get("")
async def find(
    _caller: Admin,
    svc: ServicesDep,
    limit: int | None = None,
    page_: Annotated[str | None, Query(alias="page")] = None,
    workspace_ids: Annotated[
        list[str] | None, Query(alias="workspace_ids[]", max_length=MAX_IDS)
    ] = None,
) -> Response:
    """List the destinations, newest first."""
    size = check_limit(limit, DEFAULT_PAGE, MAX_PAGE)
    bound = {"list": "telemetry_destinations", "workspaces": workspace_ids}
    after = _after(svc, bound, page_)
    rows, more = await svc.db.page(lambda tx: destinations.find(tx, size, after, workspace_ids))
    next_page = svc.cursors.seal(bound, (rows[-1].created_us, rows[-1].id)) if more else None
    return reply(page([destinations.shown(row) for row in rows], next_page))


@router.get("/{destination_id}")
async def retrieve(_caller: Admin, svc: ServicesDep, destination_id: str) -> Response:
    """Return a destination, without its headers' values."""
    return reply(await svc.db.read(lambda tx: destinations.get(tx, destination_id)))


@router.post("/{destination_id}")
async def update(
    caller: Admin,
    svc: ServicesDep,
    destination_id: str,
    version: Annotated[int, Depends(_met)],
    body: UpdateBody,
) -> Response:
    """Change a destination; 409 if another request did while this one ran."""
    actor, rules = actor_of(svc, caller), svc.exporter.rules

    def work(tx: Tx) -> Mapping[str, Any]:
        changed = destinations.configure(tx, actor, rules, destination_id, (version, body))
        svc.recorder.changed(tx)
        return changed

    return reply(await svc.db.write(work))


@router.delete("/{destination_id}")
async def delete(caller: Admin, svc: ServicesDep, destination_id: str) -> Response:
    """Delete a destination and its list."""
    actor = actor_of(svc, caller)

    def work(tx: Tx) -> Mapping[str, Any]:
        gone = destinations.remove(tx, actor, destination_id)
        svc.recorder.changed(tx)
        return gone

    return reply(await svc.db.write(work))


@router.post("/{destination_id}/test")
async def test(caller: Admin, svc: ServicesDep, destination_id: str) -> Response:
    """Send one test span and say how that went."""
    return reply(await svc.exporter.test(caller.credential_id, destination_id))


@router.get("/{destination_id}/workspaces")
async def find_workspaces(
    _caller: Admin,
    svc: ServicesDep,
    destination_id: str,
    limit: int | None = None,
    page_: Annotated[str | None, Query(alias="page")] = None,
) -> Response:
    """List the workspaces on a destination's list, newest entry first."""
    size = check_limit(limit, DEFAULT_PAGE, MAX_PAGE)
    bound = {"list": "telemetry_workspaces", "destination": destination_id}
    after = _after(svc, bound, page_)

    def work(tx: Tx) -> tuple[list[Row[Any]], bool]:
        destinations.find_row(tx, destination_id)
        return coverage.find(tx, destination_id, size, after)

    rows, more = await svc.db.page(work)
    last = (rows[-1].created_us, rows[-1].workspace_id) if more else ()
    next_page = svc.cursors.seal(bound, last) if more else None
    return reply(page([coverage.shown(row) for row in rows], next_page))


@router.post("/{destination_id}/workspaces/{workspace_id}")
async def add_workspace(
    caller: Admin, svc: ServicesDep, destination_id: str, workspace_id: str
) -> Response:
    """Put a workspace on a destination's list."""
    actor = actor_of(svc, caller)
    entry = await svc.db.write(
        lambda tx: destinations.list_workspace(tx, actor, destination_id, workspace_id)
    )
    return reply(entry)


@router.delete("/{destination_id}/workspaces/{workspace_id}")
async def remove_workspace(
    caller: Admin, svc: ServicesDep, destination_id: str, workspace_id: str
) -> Response:
    """Take a workspace off a destination's list."""
    actor = actor_of(svc, caller)
    gone = await svc.db.write(
        lambda tx: destinations.unlist_workspace(tx, actor, destination_id, workspace_id)
    )
    return reply(gone)


def _after(
    svc: Services, bound: Mapping[str, object], cursor: str | None
) -> tuple[int, str] | None:
    if not cursor:
        return None
    at_us, last_id = svc.cursors.open(bound, cursor)
    return at_us, last_id
