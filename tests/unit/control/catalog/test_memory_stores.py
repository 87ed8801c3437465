import pytest
from sqlalchemy import func, insert, select

from intramuros.control.catalog import memories, memory_stores, service
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import memories as memories_table
from intramuros.control.store.tables import memory_attachments, memory_versions
from intramuros.kernel.errors import InvalidRequest, NotFound, PermissionDenied
from intramuros.protocol.resources.memory import (
    MemoryCreate,
    MemoryStoreCreate,
    MemoryStoreUpdate,
)
from tests.unit.control.catalog.memory import (
    API_KEY,
    make_session,
    make_store,
    make_writer,
)


def test_what_is_left_out_gets_its_default() -> None:
    made = memory_stores.configure(MemoryStoreCreate(name="n"))
    assert made == {"name": "n", "description": "", "metadata": {}}


@pytest.mark.parametrize("description", ["", None])
def test_R134_empty_and_null_clear_a_description(description: str | None) -> None:
    stored = {"name": "n", "description": "d", "metadata": {"a": "1"}}
    update = MemoryStoreUpdate(description=description)
    assert memory_stores.amend(stored, update) == {**stored, "description": ""}
    assert memory_stores.amend(stored, MemoryStoreUpdate(name="m", metadata={"a": None})) == {
        "name": "m",
        "description": "d",
        "metadata": {},
    }


def test_c4_9_the_merged_bag_is_bounded() -> None:
    stored = {"name": "n", "description": "", "metadata": {str(i): "" for i in range(16)}}
    with pytest.raises(InvalidRequest, match="16 pairs"):
        memory_stores.amend(stored, MemoryStoreUpdate(metadata={"more": ""}))


def test_R168_c2_9_c2_10_a_token_reaches_what_its_session_has(tx: Tx, actor: Actor) -> None:
    ours, shared, foreign = (make_store(tx, actor) for _ in range(3))
    token = make_session(tx, actor, "sesn_1")
    for store, read_only in ((ours, False), (shared, True)):
        tx.execute(
            insert(memory_attachments).values(
                session_id="sesn_1", store_id=store.id, read_only=read_only, created_us=1
            )
        )
    assert memory_stores.reach(tx, token, ours.id, write=True) == ours
    assert memory_stores.reach(tx, token, shared.id) == shared
    with pytest.raises(PermissionDenied, match="read-only"):
        memory_stores.reach(tx, token, shared.id, write=True)
    for write in (False, True):
        with pytest.raises(NotFound):
            memory_stores.reach(tx, token, foreign.id, write=write)
    assert memory_stores.reach(tx, API_KEY, foreign.id, write=True) == foreign


def test_R139_delete_leaves_nothing_of_it(tx: Tx, actor: Actor) -> None:
    writer = make_writer(tx, actor)
    memories.create(tx, writer, MemoryCreate(path="/a", content=""))
    memory_stores.delete(tx, actor, writer.store.id)
    for table in (memories_table, memory_versions):
        assert tx.scalar(select(func.count()).select_from(table)) == 0
    with pytest.raises(NotFound):
        memory_stores.delete(tx, actor, writer.store.id)


def test_R137_an_archived_store_does_not_change(tx: Tx, actor: Actor) -> None:
    store = make_store(tx, actor)
    service.archive(tx, actor, store)
    with pytest.raises(InvalidRequest, match="archived"):
        memory_stores.update(tx, actor, store.id, MemoryStoreUpdate(name="m"))
