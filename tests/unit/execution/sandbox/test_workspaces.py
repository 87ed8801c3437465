import os
from pathlib import Path

import pytest

from intramuros.execution.sandbox.workspaces import Workspaces

pytestmark = pytest.mark.anyio


async def test_a_workspace_is_private_and_kept(tmp_path: Path) -> None:
    spaces = Workspaces(tmp_path, as_root=False)
    path = await spaces.open("s1", None)
    assert path.stat().st_mode & 0o777 == 0o700
    (path / "f").touch()
    assert (await spaces.open("s1", None) / "f").exists()


async def test_a_tree_changes_hands_without_following_links(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    spaces = Workspaces(tmp_path, as_root=True)
    path = await spaces.open("s1", 5001)
    (path / "d").mkdir()
    (path / "d/f").touch()
    (tmp_path / "victim").touch()
    (path / "link").symlink_to(tmp_path / "victim")
    await spaces.open("s1", 5002)
    owners = {entry.lstat().st_uid for entry in [path, *path.rglob("*")]}
    assert owners == {5002}
    assert (tmp_path / "victim").stat().st_uid == 0


async def test_removing_opens_what_was_closed_and_spares_what_links_lead_to(tmp_path: Path) -> None:
    spaces = Workspaces(tmp_path / "spaces", as_root=False)
    (tmp_path / "spaces").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/f").touch()
    path = await spaces.open("s1", None)
    (path / "a/b").mkdir(parents=True)
    (path / "link").symlink_to(tmp_path / "kept")
    (path / "a/b").chmod(0)
    (path / "a").chmod(0)
    await spaces.remove("s1")
    await spaces.remove("s1")
    assert not path.exists()
    assert (tmp_path / "kept/f").exists()
