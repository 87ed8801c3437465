import os
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from intramuros.execution.snapshots.shelf import MAX_SMALL_BYTES, ObjectGone, Shelf, ShelfError
from intramuros.kernel.errors import OperatorError


@pytest.fixture(params=["directory", "store"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    if request.param == "store":
        return Shelf(MemoryStore(), None)
    return Shelf.open(str(tmp_path / "shelf"))


def test_small_objects(shelf: Shelf) -> None:
    assert shelf.put("a/one", b"1")
    assert shelf.put("a/one", b"2")
    assert not shelf.put("a/one", b"3", new=True)
    assert shelf.put("a/two", b"", new=True)
    assert shelf.put("ab", b"")
    assert (shelf.get("a/one"), shelf.get("a/two")) == (b"2", b"")
    assert shelf.names("a") == ["a/one", "a/two"]
    assert shelf.names("nothing") == []
    shelf.remove("a/one")
    shelf.remove("a/one")
    with pytest.raises(ObjectGone):
        shelf.get("a/one")


def test_large_objects_are_there_once_they_are_whole(shelf: Shelf) -> None:
    data = os.urandom(3_000_000)
    writer = shelf.writer("data/x")
    for at in range(0, len(data), 700_000):
        writer.write(data[at : at + 700_000])
        assert shelf.names("data") == []
    writer.commit()
    assert shelf.names("data") == ["data/x"]
    assert b"".join(shelf.reader("data/x")) == data
    assert shelf.old_names("data", 0) == []
    assert shelf.old_names("data", 1e12) == ["data/x"]
    with pytest.raises(ObjectGone):
        list(shelf.reader("data/y"))


def test_an_aborted_one_leaves_nothing(shelf: Shelf) -> None:
    writer = shelf.writer("data/x")
    writer.write(b"x" * 100)
    writer.abort()
    writer.abort()
    assert shelf.names("data") == []
    again = shelf.writer("data/x")
    again.write(b"whole")
    again.commit()
    assert b"".join(shelf.reader("data/x")) == b"whole"


def test_what_is_not_small_is_not_read(shelf: Shelf) -> None:
    shelf.put("big", bytes(MAX_SMALL_BYTES + 1))
    with pytest.raises(ShelfError):
        shelf.get("big")


def test_leftovers_of_writers_that_died_are_removed(tmp_path: Path) -> None:
    shelf = Shelf.open(f"file://{tmp_path}")
    dead = shelf.writer("data/dead")
    dead.write(b"x")
    assert list(tmp_path.rglob("*")) == [tmp_path / "data", tmp_path / "data/dead#1"]
    assert shelf.remove_partial(before=0) == 0
    assert shelf.remove_partial(before=1e12) == 1
    dead.abort()
    assert shelf.names("data") == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A device that is always full stands where the draft would be."""
    shelf = Shelf.open(str(tmp_path))
    writer = shelf.writer("data/x")
    os.dup2(os.open("/dev/full", os.O_WRONLY), writer._file.fileno())  # type: ignore[attr-defined]
    with pytest.raises(ShelfError, match="No space left"):
        for _ in range(100):
            writer.write(bytes(100_000))
        writer.commit()
    writer.abort()
    assert shelf.names("data") == []
    assert list((tmp_path / "data").iterdir()) == []


def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (str(tmp_path / "file/below"), "nonsense://x"):
        with pytest.raises(OperatorError):
            Shelf.open(place)
