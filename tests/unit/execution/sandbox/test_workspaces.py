import os
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import MIB, Limits
from intramuros.execution.sandbox.drives import Drives
from intramuros.execution.sandbox.workspaces import Workspaces

pytestmark = pytest.mark.anyio
LIMITS = Limits(disk_bytes=4 * MIB)


async def test_a_workspace_is_private_and_kept(tmp_path: Path) -> None:
    spaces = Workspaces(tmp_path)
    assert not spaces.exists("s1")
    path = (await spaces.open("s1", LIMITS)).path
    assert path.stat().st_mode & 0o777 == 0o700
    (path / "f").touch()
    assert ((await spaces.open("s1", LIMITS)).path / "f").exists()
    assert spaces.exists("s1")
    assert spaces.all() == ["s1"]


async def test_a_tree_changes_hands_without_following_links(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    spaces = Workspaces(tmp_path)
    path = (await spaces.open("s1", LIMITS)).path
    (path / "d").mkdir()
    (path / "d/f").touch()
    (tmp_path / "victim").touch()
    (path / "link").symlink_to(tmp_path / "victim")
    await spaces.give(path, 5002)
    owners = {entry.lstat().st_uid for entry in [path, *path.rglob("*")]}
    assert owners == {5002}
    assert (tmp_path / "victim").stat().st_uid == 0


async def test_removing_opens_what_was_closed_and_spares_what_links_lead_to(tmp_path: Path) -> None:
    spaces = Workspaces(tmp_path / "spaces")
    (tmp_path / "spaces").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/f").touch()
    path = (await spaces.open("s1", LIMITS)).path
    (path / "a/b").mkdir(parents=True)
    (path / "link").symlink_to(tmp_path / "kept")
    (path / "a/b").chmod(0)
    (path / "a").chmod(0)
    await spaces.remove("s1")
    await spaces.remove("s1")
    assert not path.exists()
    assert (tmp_path / "kept/f").exists()


@pytest.fixture
def drives(tmp_path: Path) -> Drives:
    (tmp_path / "drives").mkdir()
    made = Drives(tmp_path / "drives")
    if made.lack:
        pytest.skip(f"no drives on this host: {made.lack}")
    return made


async def test_a_drive_is_kept_closed_opened_renamed_and_removed(
    tmp_path: Path, drives: Drives
) -> None:
    for part in ("own", "home"):
        (tmp_path / part).mkdir()
    own, home = Workspaces(tmp_path / "own", drives), Workspaces(tmp_path / "home", drives)
    spare = await own.open("spare", LIMITS)
    await own.give(spare.path, 5001)
    (spare.path / "f").write_text("x")
    own.rename("spare", home, "s1")
    assert (own.all(), home.all()) == ([], ["s1"])
    assert (home.path("s1") / "f").read_text() == "x", "it stays mounted"
    await home.close("s1")
    await home.close("s1")
    again = await home.open("s1", LIMITS)
    assert (again.owner, (again.path / "f").read_text()) == (5001, "x")
    await home.trim()
    await home.remove("s1")
    await home.remove("s1")
    assert home.all() == []


async def test_a_directory_that_is_there_is_used_as_it_is(tmp_path: Path, drives: Drives) -> None:
    (tmp_path / "home/s1").mkdir(parents=True)
    (tmp_path / "home/s1/f").touch()
    opened = await Workspaces(tmp_path / "home", drives).open("s1", LIMITS)
    assert opened.drive is None
    assert (opened.path / "f").exists()


async def test_a_drive_that_is_there_is_used_where_new_ones_are_not_wanted(
    tmp_path: Path, drives: Drives
) -> None:
    (tmp_path / "home").mkdir()
    first = Workspaces(tmp_path / "home", drives)
    ((await first.open("s1", LIMITS)).path / "f").touch()
    await first.close("s1")
    plain = Workspaces(tmp_path / "home")
    opened = await plain.open("s1", LIMITS)
    assert (opened.path / "f").exists()
    await plain.remove("s1")
