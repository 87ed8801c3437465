"""``/v1/deployments``."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import Developer, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.lists import CreatedDep, PagingDep
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.catalog.kinds import DEFAULT_PAGE, DEPLOYMENT
from intramuros.control.catalog.service import Resource
from intramuros.control.deployment import deployments, present
from intramuros.control.deployment.deployments import Deployment
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.deployments import DeploymentCreate, DeploymentUpdate, Status

router = APIRouter(prefix="/v1/deployments", tags=["deployments"])

CreateBody = Annotated[DeploymentCreate, Depends(Body(DeploymentCreate))]
UpdateBody = Annotated[DeploymentUpdate, Depends(Body(DeploymentUpdate))]


@router.post("")
async def create(caller: Developer, svc: ServicesDep, body: CreateBody) -> Response:
    """Create a deployment."""
    actor = actor_of(svc, caller)
    return _deployment(svc, await svc.db.write(lambda tx: svc.deployments.create(tx, actor, body)))


@router.get("")
async def find(
    caller: Developer,
    svc: ServicesDep,
    paging: PagingDep,
    created: CreatedDep,
    agent_id: str | None = None,
    status: Status | None = None,
) -> Response:
    """List deployments, newest first."""
    if status is not None and paging.include_archived:
        raise InvalidRequest("status: cannot be combined with include_archived")
    limit = check_limit(paging.limit, DEFAULT_PAGE, DEPLOYMENT.max_page)
    narrow = {"agent_id": agent_id, "created_gte_us": created[0], "created_lte_us": created[1]}
    bound = {
        "list": "deployments",
        "workspace": caller.workspace_id,
        "archived": paging.include_archived,
        "status": status,
        **narrow,
    }
    after = None
    if paging.page is not None:
        at_us, last_id = svc.cursors.open(bound, paging.page)
        after = (at_us, last_id)
    query = deployments.Query(
        limit,
        after,
        paging.include_archived,
        agent_id,
        status,
        created_gte_us=created[0],
        created_lte_us=created[1],
    )
    now_us = to_micros(svc.clock.now())

    def work(tx: Tx) -> tuple[list[present.Shown], Resource | None]:
        found, more = deployments.find(tx, caller.workspace_id, query)
        # Off the event loop: a hundred rare schedules are half a second of looking at calendars.
        shown = [present.deployment(one, now_us) for one in found]
        return shown, found[-1].resource if more else None

    shown, last = await svc.db.page(work)
    next_page = None if last is None else svc.cursors.seal(bound, (last.created_us, last.id))
    return reply(page(shown, next_page))


@router.get("/{deployment_id}")
async def retrieve(caller: Developer, svc: ServicesDep, deployment_id: str) -> Response:
    """Return a deployment."""
    found = await svc.db.read(lambda tx: deployments.get(tx, caller.workspace_id, deployment_id))
    return _deployment(svc, found)


@router.post("/{deployment_id}")
async def update(
    caller: Developer, svc: ServicesDep, deployment_id: str, body: UpdateBody
) -> Response:
    """Change a deployment."""
    actor = actor_of(svc, caller)
    changed = await svc.db.write(lambda tx: svc.deployments.update(tx, actor, deployment_id, body))
    return _deployment(svc, changed)


@router.post("/{deployment_id}/archive")
async def archive(caller: Developer, svc: ServicesDep, deployment_id: str) -> Response:
    """End a deployment for good."""
    actor = actor_of(svc, caller)
    found = await svc.db.write(lambda tx: deployments.archive(tx, actor, deployment_id))
    return _deployment(svc, found)


@router.post("/{deployment_id}/pause")
async def pause(caller: Developer, svc: ServicesDep, deployment_id: str) -> Response:
    """Stop a deployment's scheduled runs."""
    actor = actor_of(svc, caller)
    found = await svc.db.write(lambda tx: deployments.pause(tx, actor, deployment_id))
    return _deployment(svc, found)


@router.post("/{deployment_id}/unpause")
async def unpause(caller: Developer, svc: ServicesDep, deployment_id: str) -> Response:
    """Let a deployment's schedule go on."""
    actor = actor_of(svc, caller)
    found = await svc.db.write(lambda tx: deployments.unpause(tx, actor, deployment_id))
    return _deployment(svc, found)


@router.post("/{deployment_id}/run")
async def run(caller: Developer, svc: ServicesDep, deployment_id: str) -> Response:
    """Start a session of a deployment now, and return the run."""
    return reply(present.run(await svc.runs.by_hand(svc.db, caller, deployment_id)))


def _deployment(svc: Services, found: Deployment) -> Response:
    return reply(present.deployment(found, to_micros(svc.clock.now())))
