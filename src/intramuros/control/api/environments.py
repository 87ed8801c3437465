"""``/v1/environments``, and our own ``/x/environments/{id}/keys``."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import Developer, Operator, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.lists import PagingDep, list_resources
from intramuros.control.api.pages import page
from intramuros.control.api.replies import reply
from intramuros.control.catalog import environments, service
from intramuros.control.catalog.kinds import ENVIRONMENT
from intramuros.control.store.db import Tx
from intramuros.protocol.resources.environments import (
    EnvironmentCreate,
    EnvironmentKeyCreate,
    EnvironmentUpdate,
)

router = APIRouter(prefix="/v1/environments", tags=["environments"])
keys_router = APIRouter(prefix="/x/environments/{environment_id}/keys", tags=["environments"])

CreateBody = Annotated[EnvironmentCreate, Depends(Body(EnvironmentCreate))]
UpdateBody = Annotated[EnvironmentUpdate, Depends(Body(EnvironmentUpdate))]
KeyBody = Annotated[EnvironmentKeyCreate, Depends(Body(EnvironmentKeyCreate))]


@router.post("")
async def create(caller: Developer, svc: ServicesDep, body: CreateBody) -> Response:
    """Create an environment."""
    actor = actor_of(svc, caller)
    made = await svc.db.write(lambda tx: environments.create(tx, actor, body))
    return reply(environments.present(made))


@router.get("")
async def find(caller: Developer, svc: ServicesDep, paging: PagingDep) -> Response:
    """List environments, newest first."""
    return await list_resources(svc, caller, ENVIRONMENT, environments.present, paging)


@router.get("/{environment_id}")
async def retrieve(caller: Developer, svc: ServicesDep, environment_id: str) -> Response:
    """Return an environment."""
    found = await svc.db.glance(
        lambda tx: service.get(tx, caller.workspace_id, ENVIRONMENT, environment_id)
    )
    return reply(environments.present(found))


@router.post("/{environment_id}")
async def update(
    caller: Developer, svc: ServicesDep, environment_id: str, body: UpdateBody
) -> Response:
    """Change an environment."""
    actor = actor_of(svc, caller)
    changed = await svc.db.write(lambda tx: environments.update(tx, actor, environment_id, body))
    return reply(environments.present(changed))


@router.delete("/{environment_id}")
async def delete(caller: Developer, svc: ServicesDep, environment_id: str) -> Response:
    """Delete an environment that no session refers to."""
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: environments.delete(tx, actor, environment_id))
    return reply({"id": environment_id, "type": "environment_deleted"})


@router.post("/{environment_id}/archive")
async def archive(caller: Developer, svc: ServicesDep, environment_id: str) -> Response:
    """Archive an environment: no new sessions, existing ones go on."""
    actor = actor_of(svc, caller)

    def work(tx: Tx) -> service.Resource:
        found = service.get(tx, caller.workspace_id, ENVIRONMENT, environment_id)
        return service.archive(tx, actor, found)

    return reply(environments.present(await svc.db.write(work)))


@keys_router.post("")
async def create_key(
    caller: Operator, svc: ServicesDep, environment_id: str, body: KeyBody
) -> Response:
    """Make a key for workers; the answer is the only place that shows its secret."""
    actor = actor_of(svc, caller)
    shown, secret = await svc.db.write(
        lambda tx: environments.create_key(tx, actor, environment_id, body.name)
    )
    return reply({**shown, "key": secret})


@keys_router.get("")
async def find_keys(caller: Operator, svc: ServicesDep, environment_id: str) -> Response:
    """List an environment's keys, without their secrets."""
    found = await svc.db.read(
        lambda tx: environments.list_keys(tx, caller.workspace_id, environment_id)
    )
    return reply(page(found, None))


@keys_router.delete("/{key_id}")
async def revoke_key(
    caller: Operator, svc: ServicesDep, environment_id: str, key_id: str
) -> Response:
    """Revoke a key; the next request with it is refused."""
    actor = actor_of(svc, caller)
    shown = await svc.db.write(
        lambda tx: environments.revoke_key(tx, actor, environment_id, key_id)
    )
    return reply(shown)
