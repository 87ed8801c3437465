"""``/v1/memory_stores``."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import Gate, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.lists import CreatedDep, PagingDep, list_resources
from intramuros.control.api.replies import reply
from intramuros.control.catalog import memory_stores, service
from intramuros.control.catalog.kinds import MEMORY_STORE
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.store.db import Tx
from intramuros.protocol.envelope import MANAGED_AGENTS_BETA, MEMORY_BETA
from intramuros.protocol.resources.memory import MemoryStoreCreate, MemoryStoreUpdate

router = APIRouter(prefix="/v1/memory_stores", tags=["memory stores"])

Keeper = Annotated[Principal, Depends(Gate(beta=MEMORY_BETA, instead=MANAGED_AGENTS_BETA))]
# A session's worker reaches the stores of its session too (contract 2.9).
User = Annotated[
    Principal,
    Depends(
        Gate(
            kinds=(CredentialKind.API_KEY, CredentialKind.SESSIONS_TOKEN),
            beta=MEMORY_BETA,
            instead=MANAGED_AGENTS_BETA,
        )
    ),
]

CreateBody = Annotated[MemoryStoreCreate, Depends(Body(MemoryStoreCreate))]
UpdateBody = Annotated[MemoryStoreUpdate, Depends(Body(MemoryStoreUpdate))]


@router.post("")
async def create(caller: Keeper, svc: ServicesDep, body: CreateBody) -> Response:
    """Create a memory store."""
    actor = actor_of(svc, caller)
    made = await svc.db.write(lambda tx: memory_stores.create(tx, actor, body))
    return reply(memory_stores.present(made))


@router.get("")
async def find(
    caller: Keeper, svc: ServicesDep, paging: PagingDep, created: CreatedDep
) -> Response:
    """List memory stores, newest first."""
    narrow = {"created_gte_us": created[0], "created_lte_us": created[1]}
    return await list_resources(svc, caller, MEMORY_STORE, memory_stores.present, paging, narrow)


@router.get("/{memory_store_id}")
async def retrieve(caller: User, svc: ServicesDep, memory_store_id: str) -> Response:
    """Return a memory store."""
    found = await svc.db.glance(lambda tx: memory_stores.reach(tx, caller, memory_store_id))
    return reply(memory_stores.present(found))


@router.post("/{memory_store_id}")
async def update(
    caller: Keeper, svc: ServicesDep, memory_store_id: str, body: UpdateBody
) -> Response:
    """Change a memory store's name, description or metadata."""
    actor = actor_of(svc, caller)
    changed = await svc.db.write(lambda tx: memory_stores.update(tx, actor, memory_store_id, body))
    return reply(memory_stores.present(changed))


@router.delete("/{memory_store_id}")
async def delete(caller: Keeper, svc: ServicesDep, memory_store_id: str) -> Response:
    """Delete a memory store with its memories and their versions."""
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: memory_stores.delete(tx, actor, memory_store_id))
    return reply({"id": memory_store_id, "type": "memory_store_deleted"})


@router.post("/{memory_store_id}/archive")
async def archive(caller: Keeper, svc: ServicesDep, memory_store_id: str) -> Response:
    """Make a memory store read-only, for good."""
    actor = actor_of(svc, caller)

    def work(tx: Tx) -> service.Resource:
        found = service.get(tx, caller.workspace_id, MEMORY_STORE, memory_store_id)
        return service.archive(tx, actor, found)

    return reply(memory_stores.present(await svc.db.write(work)))
