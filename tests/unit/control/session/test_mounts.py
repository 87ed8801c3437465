import random

import pytest

from intramuros.control.catalog import files, service
from intramuros.control.catalog.kinds import ENVIRONMENT
from intramuros.control.identity.actor import Actor
from intramuros.control.session import mounts
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.memory import MemoryStoreParam
from intramuros.protocol.resources.mounts import FileParam
from tests.unit.control.catalog.memory import make_store


@pytest.mark.parametrize("kind", ["cloud", "self_hosted"])
def test_stores_mount_everywhere_and_files_in_the_cloud(
    tx: Tx, clock: ManualClock, kind: str
) -> None:
    ids = IdFactory(clock, random.Random(7).randbytes)
    actor = Actor(clock, ids, "wrkspc_test", "apikey_test")
    environment = service.create(tx, actor, ENVIRONMENT, {"config": {"type": kind}})
    store = MemoryStoreParam(type="memory_store", memory_store_id=make_store(tx, actor).id)
    made = files.add(tx, actor, files.NewFile("a", ""), Blob("k", 5, "sha"), 1000)
    file = FileParam(type="file", file_id=made.id)
    assert mounts.mount(tx, actor, environment, "sesn_1", None) == []
    mounts.verify(tx, "wrkspc_test", [file, store])
    with pytest.raises(NotFound):
        mounts.verify(tx, "wrkspc_test", [FileParam(type="file", file_id="file_absent")])
    if kind == "self_hosted":
        with pytest.raises(InvalidRequest):
            mounts.mount(tx, actor, environment, "sesn_1", [file, store])
    else:
        mounted = mounts.mount(tx, actor, environment, "sesn_1", [file, store])
        assert [shown["type"] for shown in mounted] == ["memory_store", "file"]
