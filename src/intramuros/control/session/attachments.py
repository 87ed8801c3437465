"""Memory stores of sessions: chosen when a session is created, and fixed for its life."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import MEMORY_STORE
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import memory_attachments
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.memory import MAX_STORES, MOUNT_ROOT, MemoryStoreParam, slug

Shown = dict[str, Any]


def mount(tx: Tx, workspace_id: str, wanted: Sequence[MemoryStoreParam]) -> list[Shown]:
    """Return the session's resources as answers show them: snapshots, each with its place.

    Raises:
        NotFound: no such store here.
        InvalidRequest: too many, one of them twice, or archived (contract 11.1, 11.12).
    """
    if len(wanted) > MAX_STORES:
        raise InvalidRequest(f"resources: at most {MAX_STORES} memory stores attach to a session")
    mounted: list[Shown] = []
    for index, param in enumerate(wanted):
        store = service.get(tx, workspace_id, MEMORY_STORE, param.memory_store_id)
        if store.archived_us is not None:
            raise InvalidRequest(f"resources[{index}]: memory store {store.id!r} is archived")
        if any(shown["memory_store_id"] == store.id for shown in mounted):
            raise InvalidRequest(f"resources[{index}]: memory store {store.id!r} is there twice")
        mounted.append(
            {
                "type": "memory_store",
                "memory_store_id": store.id,
                "name": store.body["name"],
                "description": store.body["description"],
                "access": param.access or "read_write",
                "instructions": param.instructions,
                "mount_path": _place(store.id, store.body["name"], mounted),
            }
        )
    return mounted


def record(tx: Tx, session_id: str, created_us: int, mounted: Sequence[Mapping[str, Any]]) -> None:
    """Keep which stores a new session may reach, and how."""
    rows = [
        {
            "session_id": session_id,
            "store_id": shown["memory_store_id"],
            "read_only": shown["access"] == "read_only",
            "created_us": created_us,
        }
        for shown in mounted
        if shown["type"] == "memory_store"
    ]
    if rows:
        tx.execute(insert(memory_attachments), rows)


def _place(store_id: str, name: str, mounted: Sequence[Shown]) -> str:
    """Return where a store is mounted, beside the earlier ones (contract-2 Q17)."""
    taken = {shown["mount_path"] for shown in mounted}
    base = f"{MOUNT_ROOT}/{slug(name) or store_id}"
    place, number = base, 1
    while place in taken:
        number += 1
        place = f"{base}-{number}"
    return place
