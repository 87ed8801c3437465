import pytest

from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest

WORKSPACE = "wrkspc_test"


def blob(key: str, size: int = 10) -> Blob:
    return Blob(key, size, "d")


def test_what_is_held_is_counted_until_it_is_dropped(tx: Tx) -> None:
    assert holdings.used(tx) == 0
    holdings.take(tx, WORKSPACE, "file_1", blob("k1"))
    holdings.take(tx, WORKSPACE, "file_2", blob("k2", 5))
    assert holdings.used(tx) == 15
    assert holdings.of(tx, "file_1") == blob("k1")
    assert holdings.unknown(tx, ["k1", "k2", "k3"]) == ["k3"]
    assert holdings.drop(tx, ["file_1"]) == ["k1"]
    assert holdings.used(tx) == 5
    assert holdings.of(tx, "file_1") is None
    assert holdings.unknown(tx, ["k1"]) == ["k1"]


def test_R181_the_quota_holds_for_all_workspaces_together(tx: Tx) -> None:
    holdings.take(tx, WORKSPACE, "file_1", blob("k1", 90))
    holdings.check_quota(tx, 10, 100)
    with pytest.raises(InvalidRequest) as caught:
        holdings.check_quota(tx, 11, 100)
    assert caught.value.hints.code == "storage_quota_exceeded"


def test_expired_blobs_give_their_room_back_at_once_and_their_owner_later(tx: Tx) -> None:
    holdings.take(tx, WORKSPACE, "file_1", blob("k1"), expires_us=100)
    holdings.take(tx, WORKSPACE, "file_2", blob("k2"))
    assert not holdings.any_expired(tx, 99)
    assert holdings.expire(tx, 99) == []
    assert holdings.any_expired(tx, 100)
    assert holdings.expire(tx, 100) == ["k1"]
    assert holdings.expire(tx, 100) == []
    assert holdings.used(tx) == 10
    assert holdings.of(tx, "file_1") is None
    assert holdings.unknown(tx, ["k1", "k2"]) == ["k1"]
    assert holdings.expired_before(tx, 99) == []
    assert holdings.expired_before(tx, 100) == [(WORKSPACE, "file_1")]
    assert holdings.drop(tx, ["file_1"]) == ["k1"]
    assert holdings.used(tx) == 10
