import random

import pytest

from intramuros.control.catalog import service
from intramuros.control.identity.actor import Actor
from intramuros.control.session import attachments, listing
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.memory import MemoryStoreParam
from tests.unit.control.catalog.memory import make_session, make_store

WORKSPACE = "wrkspc_test"


@pytest.fixture
def actor(clock: ManualClock) -> Actor:
    return Actor(clock, IdFactory(clock, random.Random(7).randbytes), WORKSPACE, "apikey_test")


def param(store_id: str, **more: object) -> MemoryStoreParam:
    return MemoryStoreParam.model_validate(
        {"type": "memory_store", "memory_store_id": store_id, **more}
    )


def test_c11_10_R143_a_snapshot_with_a_place(tx: Tx, actor: Actor) -> None:
    store = make_store(tx, actor, "Team Notes", description="d")
    wanted = [param(store.id, access="read_only", instructions="i")]
    assert attachments.mount(tx, WORKSPACE, wanted) == [
        {
            "type": "memory_store",
            "memory_store_id": store.id,
            "name": "Team Notes",
            "description": "d",
            "access": "read_only",
            "instructions": "i",
            "mount_path": "/mnt/memory/team-notes",
        }
    ]


def test_R144_places_never_meet(tx: Tx, actor: Actor) -> None:
    names = ["A b", "a-b", "A B!", "a-b-2", "日本", "a-b"]
    stores = [make_store(tx, actor, name) for name in names]
    mounted = attachments.mount(tx, WORKSPACE, [param(store.id) for store in stores])
    assert [shown["mount_path"].removeprefix("/mnt/memory/") for shown in mounted] == [
        "a-b",
        "a-b-2",
        "a-b-3",
        "a-b-2-2",
        stores[4].id,
        "a-b-4",
    ]


def test_c11_1_c11_12_R141_what_cannot_be_attached(tx: Tx, actor: Actor) -> None:
    stores = [make_store(tx, actor) for _ in range(9)]
    everything = [param(store.id) for store in stores]
    with pytest.raises(InvalidRequest, match="at most 8"):
        attachments.mount(tx, WORKSPACE, everything)
    assert len(attachments.mount(tx, WORKSPACE, everything[:8])) == 8
    with pytest.raises(InvalidRequest, match="twice"):
        attachments.mount(tx, WORKSPACE, [everything[0], everything[0]])
    service.archive(tx, actor, stores[0])
    with pytest.raises(InvalidRequest, match="archived"):
        attachments.mount(tx, WORKSPACE, everything[:1])
    for workspace, store_id in ((WORKSPACE, "memstore_none"), ("wrkspc_other", stores[1].id)):
        with pytest.raises(NotFound):
            attachments.mount(tx, workspace, [param(store_id)])


def test_sessions_are_found_by_their_stores(tx: Tx, actor: Actor) -> None:
    store = make_store(tx, actor)
    make_session(tx, actor, "sesn_1")
    attachments.record(tx, "sesn_1", 1, [])
    mounted = attachments.mount(tx, WORKSPACE, [param(store.id)])
    attachments.record(tx, "sesn_1", 1, [*mounted, {"type": "file"}])

    def found(store_id: str) -> list[str]:
        query = listing.Query(memory_store_id=store_id)
        rows = listing.find(tx, WORKSPACE, query, ascending=True)
        return [row.id for row in rows]

    assert found(store.id) == ["sesn_1"]
    assert found("memstore_none") == []
