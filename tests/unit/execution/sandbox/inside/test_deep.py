import os
import random
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside import deep

NAMES = ["a", "b.txt", "c.py", ".hidden", "d e", "ü.txt", "[x]", "e.py.txt"]


def grow(folder: Path, rand: random.Random, depth: int) -> None:
    for name in rand.sample(NAMES, rand.randint(0, len(NAMES))):
        path = folder / name
        kind = rand.random()
        if kind < 0.4 and depth:
            path.mkdir()
            grow(path, rand, depth - 1)
        elif kind < 0.55:
            path.symlink_to(rand.choice(["a", "..", "nowhere", ".", "/etc", name]))
        else:
            path.write_text(name)
            os.utime(path, (kind * 1e9, kind * 1e9))


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_pathlib_finds_in_the_same_order(tmp_path: Path, seed: int) -> None:
    grow(tmp_path, random.Random(seed), 4)
    root = str(tmp_path.resolve())
    for pattern in ("*", "*.txt", "*.py*", ".*", "*x]", "? *", "[bc]*"):
        theirs = [str(path) for path in Path(root).glob(f"**/{pattern}")]
        inside = [p for p in theirs if os.path.realpath(p).startswith(root) or not loops(p)]
        kept = [p for p in inside if stays(p, root)]
        assert [path for _, path in deep.find(root, pattern, 10_000)] == kept


def loops(path: str) -> bool:
    try:
        Path(path).stat()
    except OSError as error:
        return error.errno == 40
    return False


def stays(path: str, root: str) -> bool:
    real = os.path.realpath(path)
    return not loops(path) and (real == root or real.startswith(root + "/"))


def test_times_are_those_of_what_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("x")
    os.utime(tmp_path / "f.txt", (5, 5))
    (tmp_path / "l.txt").symlink_to("f.txt")
    (tmp_path / "n.txt").symlink_to("nowhere")
    found = {Path(path).name: time for time, path in deep.find(str(tmp_path), "*.txt", 10)}
    assert found == {"f.txt": 5, "l.txt": 5, "n.txt": 0.0}


def test_it_stops_at_its_limits(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/f").touch()
    assert len(deep.find(str(tmp_path), "*", 7)) == 7
    place = tmp_path
    for _ in range(deep.MAX_DEPTH + 5):
        place /= "n"
        place.mkdir()
    (place / "deepest").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert deep.find(str(tmp_path / "n"), "deep*", 10) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert deep.find(str(tmp_path / "missing"), "*", 10) == []


@pytest.mark.usefixtures("links_followed")
def test_a_link_that_came_after_the_look_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for folder in (root, root / "d", out):
        folder.mkdir()
        (folder / "f").touch()
    look = deep._Search._look

    def late(search: deep._Search, fd: int, path: str) -> list[str]:
        below = look(search, fd, path)
        if path == str(root):
            (root / "d").rename(root / "was")
            (root / "d").symlink_to(out)
        return below

    monkeypatch.setattr(deep._Search, "_look", late)
    assert [path for _, path in deep.find(str(root), "*", 10)] == [str(root / "f"), str(root / "d")]
    assert deep.find(str(root / "d"), "*", 10) == []  # the root itself, judged before it was one
