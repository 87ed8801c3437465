"""Our own ``/x/pool``: how the operator's workers serve cloud environments.

A worker of the pool claims from all of them and does the rest with each item's own token, through
the documented endpoints.
"""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import Gate, OrgAdmin, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.pages import page
from intramuros.control.api.replies import reply
from intramuros.control.api.work import PollDep
from intramuros.control.identity import pool_keys
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.session import present
from intramuros.protocol.resources.environments import EnvironmentKeyCreate

router = APIRouter(prefix="/x/pool", tags=["pool"])

Puller = Annotated[
    Principal, Depends(Gate(kinds=(CredentialKind.POOL_KEY,), beta=None, organization=True))
]
KeyBody = Annotated[EnvironmentKeyCreate, Depends(Body(EnvironmentKeyCreate))]


@router.get("/poll")
async def poll(caller: Puller, svc: ServicesDep, wanted: PollDep) -> Response:
    """Hand out the next item of any cloud environment, or the JSON literal null."""
    found = await svc.work.poll(caller, wanted)
    return reply(None if found is None else present.work(*found))


@router.post("/keys")
async def create_key(caller: OrgAdmin, svc: ServicesDep, body: KeyBody) -> Response:
    """Make a pool key; the answer is the only place that shows its secret."""
    actor = actor_of(svc, caller)
    shown, secret = await svc.db.write(lambda tx: pool_keys.create(tx, actor, body.name))
    return reply({**shown, "key": secret})


@router.get("/keys")
async def find_keys(caller: OrgAdmin, svc: ServicesDep) -> Response:
    """List the pool keys, without their secrets."""
    return reply(page(await svc.db.read(pool_keys.find), None))


@router.delete("/keys/{key_id}")
async def revoke_key(caller: OrgAdmin, svc: ServicesDep, key_id: str) -> Response:
    """Revoke a pool key; the next poll with it is refused."""
    actor = actor_of(svc, caller)
    return reply(await svc.db.write(lambda tx: pool_keys.revoke(tx, actor, key_id)))
