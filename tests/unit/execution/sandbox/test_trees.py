import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from intramuros.execution.sandbox import trees


@pytest.fixture
def abyss(tmp_path: Path) -> Iterator[Path]:
    """A tree that is nested more deeply than paths, recursion and descriptors reach."""
    top = tmp_path / "top"
    top.mkdir()
    here = os.getcwd()
    os.chdir(top)
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    Path("f").write_bytes(bytes(5000))
    os.chdir(here)
    yield top
    if top.exists():
        trees.remove(str(top))


def test_everything_is_seen_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/f").write_bytes(b"four")
    (tmp_path / "a/out").symlink_to("/usr")
    found = list(trees.walk(str(tmp_path)))
    assert sorted(stat.S_IFMT(info.st_mode) for info in found) == sorted(
        [stat.S_IFDIR, stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK]
    )
    assert list(trees.walk(str(tmp_path / "a/out"))) == []


def test_a_closed_directory_hides_nothing_and_stays_closed(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed/f").write_bytes(b"four")
    for mode in (0, 0o400, 0o200):
        (tmp_path / "closed").chmod(mode)
        assert len(list(trees.walk(str(tmp_path)))) == 2
        assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == mode


def test_no_depth_is_too_much_and_few_descriptors_are_held(abyss: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    held = 0
    with pytest.raises(trees.TooDeep):
        for _ in trees.walk(str(abyss)):
            held = max(held, len(os.listdir("/proc/self/fd")) - before)
    assert held <= trees.MAX_DEPTH + 2
    assert len(os.listdir("/proc/self/fd")) == before
    trees.remove(str(abyss))
    assert not abyss.exists()


def test_removing_spares_what_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/f").touch()
    (tmp_path / "top/a/b").mkdir(parents=True)
    (tmp_path / "top/a/b/f").touch()
    (tmp_path / "top/a/out").symlink_to(tmp_path / "kept")
    for path, mode in (("top/a/b", 0o500), ("top/a", 0), ("top", 0o500)):
        (tmp_path / path).chmod(mode)
    trees.remove(str(tmp_path / "top"))
    trees.remove(str(tmp_path / "top"))
    assert (tmp_path / "kept/f").exists()
    assert not (tmp_path / "top").exists()


def test_running_out_of_descriptors_is_not_an_empty_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    real = trees._enter

    def enter(name: str, parent: int | None) -> trees._Level:
        if parent is not None:
            raise OSError(24, "too many open files")
        return real(name, parent)

    monkeypatch.setattr(trees, "_enter", enter)
    with pytest.raises(trees.Hidden):
        list(trees.walk(str(tmp_path)))
