import pytest

from intramuros.control.catalog import files, outputs
from intramuros.control.catalog.outputs import Place
from intramuros.control.identity.actor import Actor
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest

A = Place("sesn_1", "out/report.txt")


def put(tx: Tx, actor: Actor, place: Place, key: str, quota: int = 1000) -> list[str]:
    return outputs.put(tx, actor, place, Blob(key, 5, f"sha-{key}"), quota)[1]


def test_R185_an_output_is_its_sessions_and_downloadable(tx: Tx, actor: Actor) -> None:
    made, dropped = outputs.put(tx, actor, A, Blob("k", 5, "sha"), 1000)
    shown = files.present(made)
    assert dropped == []
    assert (shown["filename"], shown["downloadable"]) == ("report.txt", True)
    assert shown["scope"] == {"type": "session", "id": "sesn_1"}
    found = outputs.find(tx, actor.workspace_id, "sesn_1")
    assert outputs.present(found) == [{"path": A.path, "file_id": made.id, "sha256": "sha"}]


def test_what_is_written_again_replaces_what_was_there(tx: Tx, actor: Actor) -> None:
    assert put(tx, actor, A, "k1") == []
    assert put(tx, actor, A, "k2") == ["k1"]
    assert put(tx, actor, Place("sesn_2", A.path), "k3") == []
    assert holdings.used(tx) == 10
    assert outputs.remove(tx, actor, A) == ["k2"]
    assert outputs.remove(tx, actor, A) == []
    assert outputs.find(tx, actor.workspace_id, "sesn_1") == {}


def test_mounted_copies_are_no_outputs(tx: Tx, actor: Actor) -> None:
    new = files.NewFile("a", "")
    original = files.add(tx, actor, new, Blob("k", 5, "sha"), 1000)
    files.copy(tx, actor, original.id, "sesn_1")
    assert outputs.find(tx, actor.workspace_id, "sesn_1") == {}


def test_there_is_an_end_to_outputs(tx: Tx, actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_OUTPUTS", 1)
    put(tx, actor, A, "k1")
    with pytest.raises(InvalidRequest, match="at most 1"):
        put(tx, actor, Place("sesn_1", "b"), "k2")
    put(tx, actor, A, "k3")
    with pytest.raises(InvalidRequest) as caught:
        put(tx, actor, Place("sesn_2", "b"), "k4", quota=6)
    assert caught.value.hints.code == "storage_quota_exceeded"


def test_odd_names_become_names_that_files_may_have(tx: Tx, actor: Actor) -> None:
    made, _ = outputs.put(tx, actor, Place("sesn_1", 'd/a:b"c'), Blob("k", 1, "s"), 1000)
    assert made.body["filename"] == "a_b_c"
