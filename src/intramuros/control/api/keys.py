"""Our own ``/x/keys``: API keys, for holders of ``org:admin``."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import Gate, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.pages import page
from intramuros.control.api.replies import reply
from intramuros.control.identity import keys
from intramuros.control.identity.principal import Principal, Scope
from intramuros.protocol.resources.keys import ApiKeyCreate

router = APIRouter(prefix="/x/keys", tags=["keys"])

Admin = Annotated[Principal, Depends(Gate(scope=Scope.ORG_ADMIN, beta=None))]
CreateBody = Annotated[ApiKeyCreate, Depends(Body(ApiKeyCreate))]


@router.post("")
async def create(caller: Admin, svc: ServicesDep, body: CreateBody) -> Response:
    """Make an API key; the answer is the only place that shows its secret."""
    actor = actor_of(svc, caller)
    scopes = [Scope(scope) for scope in body.scopes]
    shown, secret = await svc.db.write(lambda tx: keys.create(tx, actor, body.name, scopes))
    return reply({**shown, "key": secret})


@router.get("")
async def find(caller: Admin, svc: ServicesDep) -> Response:
    """List the workspace's API keys, without their secrets."""
    found = await svc.db.read(lambda tx: keys.find(tx, caller.workspace_id))
    return reply(page(found, None))


@router.delete("/{key_id}")
async def revoke(caller: Admin, svc: ServicesDep, key_id: str) -> Response:
    """Revoke an API key; the next request with it is refused."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: keys.revoke(tx, actor, key_id)))
