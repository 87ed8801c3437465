import hashlib
import os
from pathlib import Path

import pytest

from intramuros.execution import memory_files
from intramuros.execution.memory_files import MARKER, UNFIT, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "home", "memstore_1")
    assert made.create()
    made.mark()
    return made


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_files_come_and_go(folder: Folder) -> None:
    folder.write("a/b/c.md", b"x")
    folder.write("a/b/c.md", b"y")
    folder.write("top", b"")
    assert folder.scan() == {"a/b/c.md": sha(b"y"), "top": sha(b"")}
    assert (folder.read("a/b/c.md"), folder.digest("top")) == (b"y", sha(b""))
    folder.delete("a/b/c.md")
    folder.delete("a/b/c.md")
    folder.delete("none/at/all")
    assert folder.scan() == {"top": sha(b"")}
    assert (folder.read("a/b/c.md"), folder.digest("a/b/c.md")) == (None, None)
    assert folder.digest("top/below") is None
    assert sorted(path.name for path in folder.home.iterdir()) == ["files"]


def test_c25_22_the_marker_says_whose_it_is_and_is_no_file(folder: Folder) -> None:
    assert folder.marked()
    assert folder.scan() == {}
    assert not Folder(folder.home, "memstore_2").marked()
    assert (folder.path / MARKER).read_text() == "version 1\nmemstore_1"


def test_nothing_leads_out_of_the_folder(folder: Folder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder.path / "link").symlink_to(secret)
    (folder.path / "dir").symlink_to(outside)
    os.mkfifo(folder.path / "pipe")
    assert folder.scan() == {}
    assert [folder.read(name) for name in ("link", "pipe", "dir", "dir/x")] == [None] * 4
    # Neither is it as though nothing were there, which would delete a memory.
    assert folder.digest("link") == UNFIT
    with pytest.raises(OSError, match="dir"):
        folder.write("dir/x", b"y")
    folder.write("link", b"y")
    assert (folder.path / "link").read_bytes() == b"y"
    assert (secret.read_text(), list(outside.iterdir())) == ("key", [])
    folder.delete("dir")
    assert outside.exists()


def test_what_no_memory_can_hold_is_there_but_not_read(folder: Folder) -> None:
    folder.write("large", b"x" * 102_401)
    folder.write("most", b"x" * 102_400)
    found = folder.scan()
    assert found["most"] == sha(b"x" * 102_400)
    assert found["large"].startswith(UNFIT)
    assert folder.read("large") is None


def test_a_flood_of_files_is_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_files, "MAX_ENTRIES", 10)
    for number in range(10):
        folder.write(str(number), b"")
    with pytest.raises(OSError, match="too many files"):
        folder.scan()


def test_deeper_than_a_path_may_go_is_not_looked_at(folder: Folder) -> None:
    folder.write("/".join("d" * 19) + "/f", b"")
    folder.write("/".join("e" * 20) + "/f", b"")
    assert list(folder.scan()) == ["/".join("d" * 19) + "/f"]


def test_a_later_worker_takes_up_what_is_marked_and_agreed(folder: Folder) -> None:
    folder.write("a", b"x")
    folder.save({"a": sha(b"x")})
    later = Folder(folder.home, "memstore_1")
    assert not later.create()
    assert (later.load(), later.read("a")) == ({"a": sha(b"x")}, b"x")
    for spoil in (lambda: folder.delete(MARKER), (folder.home / "base.json").unlink):
        folder.mark()
        folder.save({})
        spoil()
        assert later.create()
        assert later.scan() == {}
    later.remove()
    later.remove()
    assert not folder.home.exists()


def test_an_unreadable_agreement_is_none(folder: Folder) -> None:
    (folder.home / "base.json").write_text("{")
    assert folder.load() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_sandboxes_user_owns_what_comes_in(folder: Folder) -> None:
    os.chown(folder.path, 54_321, 54_321)
    folder.write("a/b", b"x")
    for path in ("a", "a/b"):
        assert (folder.path / path).lstat().st_uid == 54_321
