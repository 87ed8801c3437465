import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from intramuros.control.store.blobs import Blob, Blobs
from intramuros.control.upkeep import blob_copies
from intramuros.kernel.errors import Unavailable


def quiet(_: str) -> None:
    """Progress of no interest."""


def put(store: Blobs, key: str, content: bytes) -> Blob:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return anyio.run(store.put, key, chunks(), 10**6)


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Blobs, Blobs]:
    return Blobs.open(None, tmp_path / "one"), Blobs.open(None, tmp_path / "two")


def test_what_is_missing_or_wrong_is_copied_and_what_is_right_stays(
    stores: tuple[Blobs, Blobs], tmp_path: Path
) -> None:
    source, target = stores
    blobs = [put(source, f"a/{n}", bytes([n]) * n) for n in range(20)]
    put(target, "a/3", b"\x03" * 3)
    put(target, "a/4", b"wron")
    right = (tmp_path / "two/blobs/a/3").stat().st_ino
    said: list[str] = []
    assert blob_copies.copy(source, target, blobs, said.append) == []
    assert said[-1] == "copying files: 20 of 20, 190 of 190 bytes"
    assert (tmp_path / "two/blobs/a/3").stat().st_ino == right
    assert blob_copies.damaged(target, blobs, quiet) == []
    assert (tmp_path / "two/blobs/a/4").read_bytes() == b"\x04" * 4


def test_what_nobody_gives_is_named(stores: tuple[Blobs, Blobs], tmp_path: Path) -> None:
    source, target = stores
    good, changed = put(source, "a/good", b"good"), put(source, "a/changed", b"before")
    (tmp_path / "one/blobs/a/changed").write_bytes(b"after!")
    gone = Blob("a/gone", 1, hashlib.sha256(b"x").hexdigest())
    wanted = [good, changed, gone]
    assert set(blob_copies.copy(source, target, wanted, quiet)) == {changed, gone}
    assert not (tmp_path / "two/blobs/a/changed").exists()
    assert blob_copies.absent(source, wanted, quiet) == [gone]
    assert set(blob_copies.damaged(source, wanted, quiet)) == {changed, gone}


def test_a_target_that_refuses_is_told_as_such(stores: tuple[Blobs, Blobs], tmp_path: Path) -> None:
    source, target = stores
    blobs = [put(source, f"a/{n}", b"x") for n in range(3)]
    (tmp_path / "two/blobs/a").write_text("no directory")
    with pytest.raises(Unavailable, match="blob store"):
        blob_copies.copy(source, target, blobs, quiet)


def test_what_nobody_refers_to_goes(stores: tuple[Blobs, Blobs], tmp_path: Path) -> None:
    for key in ("a/1", "a/2", "b/3"):
        put(stores[0], key, b"x")
    blob_copies.keep_only(stores[0], {"a/2"})
    kept = [path.name for path in (tmp_path / "one/blobs").rglob("*") if path.is_file()]
    assert kept == ["2"]


def test_lists_are_read_as_written(tmp_path: Path) -> None:
    blobs = [Blob("a/\n", 1, "x"), Blob("ü", 2**62, "y")]
    blob_copies.dump(blobs, tmp_path / "list")
    assert list(blob_copies.load(tmp_path / "list")) == blobs
    for wrong in ("{", '{"key": 1, "more": 2}', "[]"):
        (tmp_path / "list").write_text(wrong)
        with pytest.raises(ValueError, match=r"."):
            list(blob_copies.load(tmp_path / "list"))
