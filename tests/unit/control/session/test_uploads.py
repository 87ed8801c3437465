import random

import pytest

from intramuros.control.catalog import files
from intramuros.control.identity.actor import Actor
from intramuros.control.session import uploads
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.mounts import UPLOADS, FileParam
from intramuros.protocol.resources.repositories import RepositoryParam


@pytest.fixture
def actor(clock: ManualClock) -> Actor:
    return Actor(clock, IdFactory(clock, random.Random(7).randbytes), "wrkspc_test", "apikey_test")


def original(tx: Tx, actor: Actor, expires_in_s: int | None = None) -> str:
    new = files.NewFile("q3.csv", "", expires_in_s)
    return files.add(tx, actor, new, Blob("k", 5, "sha"), 1000).id


def param(file_id: str, place: str | None = None) -> FileParam:
    return FileParam(type="file", file_id=file_id, mount_path=place)


def test_R184_a_copy_takes_no_room_and_outlives_the_original(tx: Tx, actor: Actor) -> None:
    file_id = original(tx, actor)
    (shown,) = uploads.mount(tx, actor, "sesn_1", [param(file_id)])
    assert shown["mount_path"] == f"{UPLOADS}/{file_id}"
    assert shown["_filename"] == "q3.csv"
    assert "_filename" not in uploads.public(shown)
    assert holdings.used(tx) == 5
    assert files.remove(tx, actor, file_id) == []
    assert holdings.used(tx) == 0
    file, blob = files.of_session(tx, "wrkspc_test", "sesn_1", shown["file_id"], 0)
    assert (file.parent_id, blob.key) == ("sesn_1", "k")
    with pytest.raises(NotFound):
        files.of_session(tx, "wrkspc_test", "sesn_2", shown["file_id"], 0)
    assert files.remove(tx, actor, shown["file_id"]) == ["k"]


def test_a_copy_does_not_expire_and_an_expired_file_is_not_copied(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    file_id = original(tx, actor, 3600)
    (shown,) = uploads.mount(tx, actor, "sesn_1", [param(file_id)])
    clock.advance(3601)
    assert holdings.expire(tx, 10**18) == []
    assert holdings.of(tx, shown["file_id"]) is not None
    with pytest.raises(NotFound) as caught:
        uploads.mount(tx, actor, "sesn_1", [param(file_id)])
    assert caught.value.hints.code == "file_expired"


def test_c8_13_R397_only_cloud_environments_mount_files_and_repositories() -> None:
    repository = RepositoryParam(type="github_repository", url="https://github.com/o/r")
    uploads.check("env_1", "cloud", [param("file_1"), repository])
    uploads.check("env_1", "self_hosted", [])
    for wanted in (param("file_1"), repository):
        with pytest.raises(InvalidRequest, match="'env_1' is self-hosted"):
            uploads.check("env_1", "self_hosted", [wanted])
