"""``/v1/agents``."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from intramuros.control.api.access import Developer, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.lists import CreatedDep, PagingDep, list_resources
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.catalog import agents, service
from intramuros.control.catalog.kinds import AGENT, DEFAULT_PAGE
from intramuros.control.deployment import deployments
from intramuros.control.store.db import Tx
from intramuros.protocol.resources.agents import MAX_VERSION, AgentCreate, AgentUpdate

router = APIRouter(prefix="/v1/agents", tags=["agents"])

CreateBody = Annotated[AgentCreate, Depends(Body(AgentCreate))]
UpdateBody = Annotated[AgentUpdate, Depends(Body(AgentUpdate))]
VersionQuery = Annotated[int | None, Query(ge=1, le=MAX_VERSION)]


@router.post("")
async def create(caller: Developer, svc: ServicesDep, body: CreateBody) -> Response:
    """Create an agent at version 1."""
    actor = actor_of(svc, caller)
    made = await svc.db.jot(lambda tx: agents.create(tx, actor, body, svc.models))
    return reply(agents.present(made))


@router.get("")
async def find(
    caller: Developer, svc: ServicesDep, paging: PagingDep, created: CreatedDep
) -> Response:
    """List agents, newest first."""
    narrow = {"created_gte_us": created[0], "created_lte_us": created[1]}
    return await list_resources(svc, caller, AGENT, agents.present, paging, narrow)


@router.get("/{agent_id}")
async def retrieve(
    caller: Developer, svc: ServicesDep, agent_id: str, version: VersionQuery = None
) -> Response:
    """Return an agent at its newest or at the given version."""
    found = await svc.db.glance(
        lambda tx: service.get(tx, caller.workspace_id, AGENT, agent_id, version)
    )
    return reply(agents.present(found))


@router.post("/{agent_id}")
async def update(caller: Developer, svc: ServicesDep, agent_id: str, body: UpdateBody) -> Response:
    """Store the next version of an agent."""
    actor = actor_of(svc, caller)
    changed = await svc.db.jot(lambda tx: agents.update(tx, actor, agent_id, body, svc.models))
    return reply(agents.present(changed))


@router.post("/{agent_id}/archive")
async def archive(caller: Developer, svc: ServicesDep, agent_id: str) -> Response:
    """Archive an agent for good, and the deployments that run it."""
    actor = actor_of(svc, caller)

    def work(tx: Tx) -> service.Resource:
        found = service.get(tx, caller.workspace_id, AGENT, agent_id)
        deployments.archive_of_agent(tx, actor, found.id)
        return service.archive(tx, actor, found)

    return reply(agents.present(await svc.db.write(work)))


@router.get("/{agent_id}/versions")
async def find_versions(
    caller: Developer, svc: ServicesDep, agent_id: str, paging: PagingDep
) -> Response:
    """List an agent's versions, highest first."""
    limit = check_limit(paging.limit, DEFAULT_PAGE, AGENT.max_page)
    bound = {"list": "agent_versions", "workspace": caller.workspace_id, "agent": agent_id}
    below = None if paging.page is None else svc.cursors.open(bound, paging.page)[0]

    def work(tx: Tx) -> tuple[list[service.Resource], bool]:
        current = service.get(tx, caller.workspace_id, AGENT, agent_id)
        return service.versions(tx, current, limit, below)

    found, more = await svc.db.page(work)
    next_page = svc.cursors.seal(bound, (found[-1].version,)) if more else None
    return reply(page([agents.present(version) for version in found], next_page))
