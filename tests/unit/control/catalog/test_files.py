import pytest

from intramuros.control.catalog import files, service
from intramuros.control.catalog.files import NewFile
from intramuros.control.catalog.kinds import FILE
from intramuros.control.identity.actor import Actor
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import ManualClock, to_micros

QUOTA = 1000


def add(tx: Tx, actor: Actor, key: str = "k", **more: object) -> str:
    new = NewFile("a.txt", "text/plain", **more)
    return files.add(tx, actor, new, Blob(key, 5, "d"), QUOTA).id


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("", "image/png", ("unnamed.png", "image/png")),
        ("dir/", "application/pdf", ("unnamed.pdf", "application/pdf")),
        ("", "", ("unnamed.bin", "application/octet-stream")),
        ("", "x/none", ("unnamed", "x/none")),
        ("a.json", "", ("a.json", "application/json")),
        ("a", "Text/HTML; charset=utf-8", ("a", "text/html")),
        ("a", "text/html\r\nx: y", ("a", "application/octet-stream")),
        ("a", "nonsense", ("a", "application/octet-stream")),
    ],
)
def test_R176_a_missing_name_is_made_from_the_type(
    name: str, kind: str, expected: tuple[str, str]
) -> None:
    assert files.name_and_type(name, kind) == expected


def test_R174_metadata_is_whole(tx: Tx, actor: Actor) -> None:
    file = service.get(tx, actor.workspace_id, FILE, add(tx, actor))
    shown = files.present(file)
    assert shown == {
        "id": file.id,
        "type": "file",
        "filename": "a.txt",
        "mime_type": "text/plain",
        "size_bytes": 5,
        "downloadable": False,
        "scope": None,
        "created_at": shown["created_at"],
        "expires_at": None,
    }


def test_R178_uploads_are_not_downloadable_and_what_agents_leave_is(tx: Tx, actor: Actor) -> None:
    uploaded = add(tx, actor)
    with pytest.raises(InvalidRequest) as caught:
        files.content(tx, actor.workspace_id, uploaded, 0)
    assert caught.value.hints.code == "file_not_downloadable"
    made = add(tx, actor, "k2", session_id="sesn_1", downloadable=True)
    file, blob = files.content(tx, actor.workspace_id, made, 0)
    assert files.present(file)["scope"] == {"type": "session", "id": "sesn_1"}
    assert blob.key == "k2"


def test_R179_content_ends_at_expiry_and_metadata_stays(
    tx: Tx, actor: Actor, clock: ManualClock
) -> None:
    file_id = add(tx, actor, expires_in_s=3600, downloadable=True)
    now_us = to_micros(clock.now())
    files.content(tx, actor.workspace_id, file_id, now_us)
    with pytest.raises(NotFound) as caught:
        files.content(tx, actor.workspace_id, file_id, now_us + 3600 * 1_000_000)
    assert caught.value.hints.code == "file_expired"
    holdings.expire(tx, now_us + 3600 * 1_000_000)
    with pytest.raises(NotFound):
        files.content(tx, actor.workspace_id, file_id, now_us)
    assert files.by_ids(tx, actor.workspace_id, [file_id])[0].id == file_id


def test_R172_unknown_ids_are_skipped(tx: Tx, actor: Actor) -> None:
    first, second = add(tx, actor), add(tx, actor, "k2")
    found = files.by_ids(tx, actor.workspace_id, {first, second, "file_none"})
    assert {file.id for file in found} == {first, second}
    assert files.by_ids(tx, "wrkspc_other", [first]) == []


def test_R181_a_full_store_refuses_and_keeps_nothing(tx: Tx, actor: Actor) -> None:
    with pytest.raises(InvalidRequest) as caught:
        files.add(tx, actor, NewFile("a", ""), Blob("k", QUOTA + 1, "d"), QUOTA)
    assert caught.value.hints.code == "storage_quota_exceeded"
    assert holdings.used(tx) == 0


def test_files_of_a_session_go_with_it(tx: Tx, actor: Actor) -> None:
    own = add(tx, actor, session_id="sesn_1")
    other = add(tx, actor, "k2", session_id="sesn_2")
    files.remove_of_session(tx, actor, "sesn_1")
    assert [f.id for f in files.by_ids(tx, actor.workspace_id, [own, other])] == [other]
    assert holdings.used(tx) == 5


def test_R180_a_deleted_file_is_gone(tx: Tx, actor: Actor) -> None:
    file_id = add(tx, actor)
    assert files.remove(tx, actor, file_id) == ["k"]
    with pytest.raises(NotFound):
        files.remove(tx, actor, file_id)
