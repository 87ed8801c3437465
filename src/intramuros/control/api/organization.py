"""``/v1/organizations``: the organization, its workspaces and its API keys."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from intramuros.control.api.access import Gate, OrgAdmin, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.replies import reply
from intramuros.control.api.spans import SpanDep, span
from intramuros.control.catalog import workspaces
from intramuros.control.identity import admin_keys
from intramuros.control.identity.principal import Principal
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.organization import (
    KeyStatus,
    KeyUpdate,
    WorkspaceCreate,
    WorkspaceUpdate,
)

router = APIRouter(prefix="/v1/organizations", tags=["organization"])

MAX_IDS: Final = 100
ORGANIZATION_NAME: Final = "Intramuros"

Anybody = Annotated[Principal, Depends(Gate(scope=None, beta=None, organization=True))]
CreateBody = Annotated[WorkspaceCreate, Depends(Body(WorkspaceCreate))]
UpdateBody = Annotated[WorkspaceUpdate, Depends(Body(WorkspaceUpdate))]
KeyBody = Annotated[KeyUpdate, Depends(Body(KeyUpdate))]


@router.get("/me")
async def me(_caller: Anybody, svc: ServicesDep) -> Response:
    """Return the organization that the credential belongs to."""
    return reply({"id": svc.organization_id, "type": "organization", "name": ORGANIZATION_NAME})


async def _filter(
    ids: Annotated[list[str] | None, Query(alias="ids[]", max_length=MAX_IDS)] = None,
    *,
    include_archived: bool = False,
    include_default: bool = False,
) -> workspaces.Filter:
    return workspaces.Filter(ids, include_archived, include_default)


@router.post("/workspaces")
async def create(caller: OrgAdmin, svc: ServicesDep, body: CreateBody) -> Response:
    """Create a workspace."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: workspaces.create(tx, actor, body)))


@router.get("/workspaces")
async def find(
    _caller: OrgAdmin,
    svc: ServicesDep,
    at: SpanDep,
    wanted: Annotated[workspaces.Filter, Depends(_filter)],
) -> Response:
    """List workspaces, newest first."""
    found, more = await svc.db.page(lambda tx: workspaces.find(tx, wanted, at))
    return reply(span(found, more=more))


@router.get("/workspaces/{workspace_id}")
async def retrieve(_caller: OrgAdmin, svc: ServicesDep, workspace_id: str) -> Response:
    """Return a workspace."""
    return reply(await svc.db.read(lambda tx: workspaces.get(tx, workspace_id)))


@router.post("/workspaces/{workspace_id}")
async def update(
    caller: OrgAdmin, svc: ServicesDep, workspace_id: str, body: UpdateBody
) -> Response:
    """Change a workspace."""
    actor = actor_of(svc, caller)
    changed = await svc.db.write(lambda tx: workspaces.configure(tx, actor, workspace_id, body))
    return reply(changed)


@router.post("/workspaces/{workspace_id}/archive")
async def archive(caller: OrgAdmin, svc: ServicesDep, workspace_id: str) -> Response:
    """Archive a workspace for good and revoke its credentials."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: workspaces.archive(tx, actor, workspace_id)))


async def _key_filter(
    status: KeyStatus | None = None,
    workspace_id: str | None = None,
    created_by_user_id: str | None = None,
) -> admin_keys.Filter:
    return admin_keys.Filter(status, workspace_id, created_by_user_id)


@router.get("/api_keys")
async def find_keys(
    _caller: OrgAdmin,
    svc: ServicesDep,
    at: SpanDep,
    wanted: Annotated[admin_keys.Filter, Depends(_key_filter)],
) -> Response:
    """List the API keys of all workspaces, newest first."""
    now_us = to_micros(svc.clock.now())
    found, more = await svc.db.page(lambda tx: admin_keys.find(tx, wanted, at, now_us))
    return reply(span(found, more=more))


@router.get("/api_keys/{key_id}")
async def retrieve_key(_caller: OrgAdmin, svc: ServicesDep, key_id: str) -> Response:
    """Return an API key, without its secret."""
    now_us = to_micros(svc.clock.now())
    return reply(await svc.db.read(lambda tx: admin_keys.get(tx, key_id, now_us)))


@router.post("/api_keys/{key_id}")
async def update_key(caller: OrgAdmin, svc: ServicesDep, key_id: str, body: KeyBody) -> Response:
    """Rename an API key, or switch it on or off."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: admin_keys.change(tx, actor, key_id, body)))
