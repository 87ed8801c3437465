"""The store that a dream writes into: the input store itself, or a new one that starts as its copy.

The copy is made some memories at a time, in the order of their paths, each batch in the transaction
that moves the dream on, so that a copy which was cut short goes on where it stopped.
"""

from dataclasses import replace
from typing import Final

from intramuros.control.catalog import memories, memory_stores, service
from intramuros.control.catalog.kinds import MEMORY_STORE
from intramuros.control.catalog.memory_versions import Author, Writer
from intramuros.control.dreams import rows
from intramuros.control.dreams.plan import Dream, StoreIs
from intramuros.control.dreams.rows import Known
from intramuros.control.dreams.stage import Stage
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import NotFound
from intramuros.protocol.resources.memory import (
    MAX_STORE_NAME_CHARS,
    MemoryCreate,
    MemoryStoreCreate,
)

# Ten megabytes at most in one transaction.
_BATCH: Final = 100
_MARK: Final = " (dream)"


def condition(tx: Tx, workspace_id: str, store_id: str) -> StoreIs:
    """Return what has become of a store."""
    try:
        found = service.get(tx, workspace_id, MEMORY_STORE, store_id)
    except NotFound:
        return "gone"
    return "open" if found.archived_us is None else "archived"


def make(tx: Tx, stage: Stage, dream: Dream) -> str:
    """Return the id of the store that the dream writes into, made if it is to be a new one.

    Raises:
        InvalidRequest: the organization has as many stores as it may.
    """
    if dream.updates:
        return dream.store_id
    source = service.get(tx, dream.workspace_id, MEMORY_STORE, dream.store_id)
    name = source.body["name"][: MAX_STORE_NAME_CHARS - len(_MARK)] + _MARK
    request = MemoryStoreCreate(
        name=name, description=source.body["description"], metadata={"dream_id": dream.id}
    )
    return memory_stores.create(tx, stage.actor(dream), request).id


def writer(tx: Tx, stage: Stage, dream: Dream) -> Writer:
    """Return the dream's session as the one who changes memories (R164)."""
    store = service.get(tx, dream.workspace_id, MEMORY_STORE, str(dream.output_id))
    return Writer(stage.actor(dream), Author("session_actor", dream.session_id), store)


def copy(tx: Tx, stage: Stage, dream: Dream) -> None:
    """Take over the next memories of the input store, or note that all are taken."""
    query = memories.Query(_BATCH, after=dream.progress.copied or None)
    found, more = memories.find(tx, dream.store_id, query)
    listed = [item for item in found if not isinstance(item, str)]
    texts = {} if dream.updates else memories.contents(tx, listed)
    hand = None if dream.updates else writer(tx, stage, dream)
    for item in listed:
        if hand is not None and memories.at(tx, hand.store.id, item.path) is None:
            # Who has put something there meanwhile keeps it.
            request = MemoryCreate(path=item.path, content=texts[item.id].decode())
            memories.create(tx, hand, request)
        rows.know(tx, dream, Known(item.path, item.version_id, None, 0))
    copied = listed[-1].path if more else None
    rows.change(tx, dream, progress=replace(dream.progress, copied=copied))
