"""``/v1/webhooks`` and ``/v1/organizations/webhooks``: where webhooks go, in one shape (Q22)."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import Gate, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.pages import check_limit
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.api.spans import span
from intramuros.control.catalog.kinds import DEFAULT_PAGE
from intramuros.control.identity.principal import Principal, Scope
from intramuros.control.webhooks import endpoints
from intramuros.control.webhooks.endpoints import Create, Page, Update
from intramuros.protocol.envelope import WEBHOOKS_BETA
from intramuros.protocol.resources.webhooks import (
    OrganizationEndpointCreate,
    OrganizationEndpointUpdate,
    WorkspaceEndpointCreate,
    WorkspaceEndpointUpdate,
)

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
organization_router = APIRouter(prefix="/v1/organizations/webhooks", tags=["webhooks"])

MAX_PAGE: Final = 100

# A workspace's endpoints are there for either beta; the organization's are as if they were not,
# for who does not name theirs (R249).
Keeper = Annotated[Principal, Depends(Gate(also=WEBHOOKS_BETA))]
OrgKeeper = Annotated[
    Principal,
    Depends(Gate(scope=Scope.ORG_ADMIN, beta=WEBHOOKS_BETA, hidden=True, organization=True)),
]
CreateBody = Annotated[WorkspaceEndpointCreate, Depends(Body(WorkspaceEndpointCreate))]
UpdateBody = Annotated[WorkspaceEndpointUpdate, Depends(Body(WorkspaceEndpointUpdate))]
OrgCreateBody = Annotated[OrganizationEndpointCreate, Depends(Body(OrganizationEndpointCreate))]
OrgUpdateBody = Annotated[OrganizationEndpointUpdate, Depends(Body(OrganizationEndpointUpdate))]


async def _page(
    limit: int | None = None,
    order: Literal["asc", "desc"] = "desc",
    after_id: str | None = None,
    before_id: str | None = None,
) -> Page:
    """Read where in the list to begin; a limit of 0 is the default one (R255)."""
    size = check_limit(limit or None, DEFAULT_PAGE, MAX_PAGE)
    return Page(size, order, after_id or None, before_id or None)


PageDep = Annotated[Page, Depends(_page)]


@router.post("")
async def create(caller: Keeper, svc: ServicesDep, body: CreateBody) -> Response:
    """Create a webhook endpoint; its signing secret is never shown again."""
    return await _create(svc, caller, caller.workspace_id, body)


@router.get("")
async def find(caller: Keeper, svc: ServicesDep, at: PageDep) -> Response:
    """List the workspace's webhook endpoints."""
    return await _find(svc, caller.workspace_id, at)


@router.get("/{webhook_id}")
async def retrieve(caller: Keeper, svc: ServicesDep, webhook_id: str) -> Response:
    """Return a webhook endpoint."""
    return await _retrieve(svc, caller.workspace_id, webhook_id)


@router.post("/{webhook_id}")
async def update(caller: Keeper, svc: ServicesDep, webhook_id: str, body: UpdateBody) -> Response:
    """Change a webhook endpoint, or switch it on or off."""
    return await _update(svc, caller, caller.workspace_id, webhook_id, body)


@router.delete("/{webhook_id}")
async def delete(caller: Keeper, svc: ServicesDep, webhook_id: str) -> Response:
    """Delete a webhook endpoint with whatever was on its way to it."""
    return await _delete(svc, caller, caller.workspace_id, webhook_id)


@router.post("/{webhook_id}/regenerate_signing_secret")
async def renew(caller: Keeper, svc: ServicesDep, webhook_id: str) -> Response:
    """Replace a webhook endpoint's signing secret, at once."""
    return await _renew(svc, caller, caller.workspace_id, webhook_id)


@organization_router.post("")
async def create_for_all(caller: OrgKeeper, svc: ServicesDep, body: OrgCreateBody) -> Response:
    """Create a webhook endpoint of the organization; its secret is never shown again."""
    return await _create(svc, caller, None, body)


@organization_router.get("")
async def find_for_all(_caller: OrgKeeper, svc: ServicesDep, at: PageDep) -> Response:
    """List the organization's webhook endpoints."""
    return await _find(svc, None, at)


@organization_router.get("/{webhook_endpoint_id}")
async def retrieve_for_all(
    _caller: OrgKeeper, svc: ServicesDep, webhook_endpoint_id: str
) -> Response:
    """Return a webhook endpoint of the organization."""
    return await _retrieve(svc, None, webhook_endpoint_id)


@organization_router.post("/{webhook_endpoint_id}")
async def update_for_all(
    caller: OrgKeeper, svc: ServicesDep, webhook_endpoint_id: str, body: OrgUpdateBody
) -> Response:
    """Change a webhook endpoint of the organization, or switch it on or off."""
    return await _update(svc, caller, None, webhook_endpoint_id, body)


@organization_router.delete("/{webhook_endpoint_id}")
async def delete_for_all(caller: OrgKeeper, svc: ServicesDep, webhook_endpoint_id: str) -> Response:
    """Delete a webhook endpoint of the organization."""
    return await _delete(svc, caller, None, webhook_endpoint_id)


@organization_router.post("/{webhook_endpoint_id}/regenerate_signing_secret")
async def renew_for_all(caller: OrgKeeper, svc: ServicesDep, webhook_endpoint_id: str) -> Response:
    """Replace the signing secret of a webhook endpoint of the organization, at once."""
    return await _renew(svc, caller, None, webhook_endpoint_id)


async def _create(
    svc: Services, caller: Principal, workspace_id: str | None, body: Create
) -> Response:
    actor = actor_of(svc, caller)
    shown, secret = await svc.db.write(
        lambda tx: svc.endpoints.create(tx, actor, workspace_id, body)
    )
    return reply({**shown, "signing_secret": secret})


async def _find(svc: Services, workspace_id: str | None, at: Page) -> Response:
    found, more = await svc.db.page(lambda tx: endpoints.find(tx, workspace_id, at))
    return reply(span(found, more=more))


async def _retrieve(svc: Services, workspace_id: str | None, endpoint_id: str) -> Response:
    row = await svc.db.read(lambda tx: endpoints.get(tx, workspace_id, endpoint_id))
    return reply(endpoints.present(row))


async def _update(
    svc: Services, caller: Principal, workspace_id: str | None, endpoint_id: str, body: Update
) -> Response:
    actor = actor_of(svc, caller)
    return reply(
        await svc.db.write(
            lambda tx: svc.endpoints.update(tx, actor, workspace_id, endpoint_id, body)
        )
    )


async def _delete(
    svc: Services, caller: Principal, workspace_id: str | None, endpoint_id: str
) -> Response:
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: endpoints.remove(tx, actor, workspace_id, endpoint_id))
    return reply({"id": endpoint_id, "type": "webhook_endpoint_deleted"})


async def _renew(
    svc: Services, caller: Principal, workspace_id: str | None, endpoint_id: str
) -> Response:
    actor = actor_of(svc, caller)
    secret = await svc.db.write(
        lambda tx: svc.endpoints.renew_secret(tx, actor, workspace_id, endpoint_id)
    )
    return reply({"signing_secret": secret})
