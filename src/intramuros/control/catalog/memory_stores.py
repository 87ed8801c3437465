"""Memory stores: what a request makes of their configuration, and who may reach them."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import MEMORY_STORE
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import Principal
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import (
    memories,
    memory_attachments,
    memory_versions,
    resources,
    workspaces,
)
from intramuros.kernel.errors import InvalidRequest, NotFound, PermissionDenied
from intramuros.kernel.timing import from_micros, rfc3339
from intramuros.protocol.resources.base import merge_metadata
from intramuros.protocol.resources.memory import MemoryStoreCreate, MemoryStoreUpdate

# Of all workspaces together: more than anybody keeps on purpose.
MAX_IN_ORGANIZATION: Final = 100_000
OVER_LIMIT: Final = "memory_store_org_limit_exceeded"


def create(tx: Tx, actor: Actor, request: MemoryStoreCreate) -> Resource:
    """Store a new, empty memory store.

    Raises:
        InvalidRequest: the organization has as many as it may (``memory_store_org_limit_exceeded``,
            as a dream calls it, R247).
    """
    everywhere = resources.c.workspace_id.in_(select(workspaces.c.id))
    count = select(func.count()).where(everywhere, resources.c.kind == MEMORY_STORE.name)
    if (tx.scalar(count) or 0) >= MAX_IN_ORGANIZATION:
        raise InvalidRequest(
            f"there are {MAX_IN_ORGANIZATION} memory stores already: delete some first",
            code=OVER_LIMIT,
        )
    return service.create(tx, actor, MEMORY_STORE, configure(request))


def update(tx: Tx, actor: Actor, store_id: str, request: MemoryStoreUpdate) -> Resource:
    """Change a store; what was not sent stays.

    Raises:
        NotFound: no such store here.
        InvalidRequest: archived, or too much metadata.
    """
    current = service.get(tx, actor.workspace_id, MEMORY_STORE, store_id)
    service.check_active(MEMORY_STORE, current)
    return service.change(tx, actor, MEMORY_STORE, current, amend(current.body, request))


def delete(tx: Tx, actor: Actor, store_id: str) -> None:
    """Delete a store with its memories and their versions (R139).

    Raises:
        NotFound: no such store here.
    """
    current = service.get(tx, actor.workspace_id, MEMORY_STORE, store_id)
    tx.execute(delete_rows(memory_versions).where(memory_versions.c.store_id == store_id))
    tx.execute(delete_rows(memories).where(memories.c.store_id == store_id))
    service.remove(tx, actor, current)


def reach(tx: Tx, caller: Principal, store_id: str, *, write: bool = False) -> Resource:
    """Return a store that the caller may read, or change the memories of (contract 2.9, 2.10).

    Raises:
        NotFound: no such store here, or the caller's session does not have it.
        PermissionDenied: the caller's session may only read it.
    """
    found = service.get(tx, caller.workspace_id, MEMORY_STORE, store_id)
    if caller.session_id is None:
        return found
    attached = tx.execute(
        select(memory_attachments.c.read_only).where(
            memory_attachments.c.session_id == caller.session_id,
            memory_attachments.c.store_id == store_id,
        )
    ).first()
    if attached is None:
        raise NotFound(f"no {MEMORY_STORE.noun} {store_id[:80]!r}")
    if write and attached.read_only:
        raise PermissionDenied(f"this session has memory store {store_id!r} read-only")
    return found


def present(store: Resource) -> dict[str, Any]:
    """Return the store as answers show it."""
    return {
        "id": store.id,
        "type": "memory_store",
        **store.body,
        "created_at": rfc3339(from_micros(store.created_us)),
        "updated_at": rfc3339(from_micros(store.updated_us)),
        "archived_at": None
        if store.archived_us is None
        else rfc3339(from_micros(store.archived_us)),
    }


def configure(request: MemoryStoreCreate) -> dict[str, Any]:
    """Return the configuration of a new store, with every default resolved. Pure."""
    return {
        "name": request.name,
        "description": request.description or "",
        "metadata": dict(request.metadata or {}),
    }


def amend(stored: Mapping[str, Any], request: MemoryStoreUpdate) -> dict[str, Any]:
    """Return the configuration after an update. Pure.

    Raises:
        InvalidRequest: the merged metadata is over its limits (contract 4.9).
    """
    changed = dict(stored)
    if request.name is not None:
        changed["name"] = request.name
    if request.sent("description"):
        changed["description"] = request.description or ""
    try:
        changed["metadata"] = merge_metadata(stored["metadata"], request.metadata)
    except ValueError as error:
        raise InvalidRequest(f"metadata: {error}") from error
    return changed
