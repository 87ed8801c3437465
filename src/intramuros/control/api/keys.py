"""Our own ``/x/keys``: API keys, for holders of ``org:admin``."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from starlette.responses import Response

from intramuros.control.api.access import OrgAdmin, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.pages import page
from intramuros.control.api.replies import reply
from intramuros.control.catalog import workspaces
from intramuros.control.catalog.issuers import check_manages
from intramuros.control.identity import keys, people
from intramuros.control.identity.principal import Scope
from intramuros.control.store.db import Tx
from intramuros.protocol.envelope import WORKSPACE_HEADER
from intramuros.protocol.resources.keys import ApiKeyCreate

router = APIRouter(prefix="/x/keys", tags=["keys"])

InWorkspace = Annotated[str | None, Header(alias=WORKSPACE_HEADER)]
CreateBody = Annotated[ApiKeyCreate, Depends(Body(ApiKeyCreate))]


@router.post("")
async def create(
    caller: OrgAdmin, svc: ServicesDep, body: CreateBody, workspace_id: InWorkspace = None
) -> Response:
    """Make an API key; the answer is the only place that shows its secret.

    It belongs to the workspace that the request's header names, or to the caller's.
    """
    actor = actor_of(svc, caller)
    if workspace_id is not None:
        actor = replace(actor, workspace_id=workspace_id)
    check_manages(actor, " ".join(body.scopes))
    scopes = [Scope(scope) for scope in body.scopes]

    def make(tx: Tx) -> tuple[dict[str, object], str]:
        workspaces.active_row(tx, actor.workspace_id)
        principal_id = None if body.user_id is None else people.row_of(tx, body.user_id).id
        return keys.create(
            tx,
            actor,
            body.name,
            scopes,
            principal_id=principal_id,
            lifetime_s=body.expires_in_seconds,
        )

    shown, secret = await svc.db.write(make)
    return reply({**shown, "key": secret})


@router.get("")
async def find(caller: OrgAdmin, svc: ServicesDep) -> Response:
    """List the workspace's API keys, without their secrets."""
    found = await svc.db.page(lambda tx: keys.find(tx, caller.workspace_id))
    return reply(page(found, None))


@router.delete("/{key_id}")
async def revoke(caller: OrgAdmin, svc: ServicesDep, key_id: str) -> Response:
    """Revoke an API key; the next request with it is refused."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: keys.revoke(tx, actor, key_id)))
