"""The directories agents work in: one per session, kept across sandboxes and worker restarts."""

import os
from pathlib import Path

from anyio import to_thread

from intramuros.execution.sandbox import trees


class Workspaces:
    """Makes, measures and removes workspaces.

    Args:
        directory: holds one directory per sandbox id.
        as_root: whether each workspace belongs to its sandbox's own uid.
    """

    def __init__(self, directory: Path, *, as_root: bool) -> None:
        self._directory = directory
        self._as_root = as_root

    def path(self, sandbox_id: str) -> Path:
        """Return where a sandbox's workspace is or would be."""
        return self._directory / sandbox_id

    def owner(self, sandbox_id: str) -> int | None:
        """Return the uid that a workspace belongs to; None when there is none."""
        try:
            return self.path(sandbox_id).lstat().st_uid
        except FileNotFoundError:
            return None

    def all(self) -> list[str]:
        """Return the sandbox ids that have a workspace."""
        return sorted(path.name for path in self._directory.glob("*"))

    async def open(self, sandbox_id: str, uid: int | None) -> Path:
        """Return the workspace, made if need be, owned by ``uid`` throughout."""
        path = self.path(sandbox_id)
        path.mkdir(mode=0o700, exist_ok=True)
        await self.give(path, uid)
        return path

    async def give(self, path: Path, uid: int | None) -> None:
        """Make ``uid`` the owner of a tree; None leaves it to us."""
        if uid is not None:
            await to_thread.run_sync(_give, path, uid)

    async def remove(self, sandbox_id: str) -> None:
        """Remove a workspace and all in it; harmless when there is none."""
        path = self.path(sandbox_id)
        if path.exists():
            await to_thread.run_sync(trees.remove, os.fspath(path))


def _give(path: Path, uid: int) -> None:
    """Make ``uid`` the owner of a tree; the top last, so that a half-given tree is given again."""
    if path.lstat().st_uid == uid:
        return
    for _, names, files, fd in os.fwalk(path, topdown=False, follow_symlinks=False):
        for name in (*names, *files):
            os.chown(name, uid, uid, dir_fd=fd, follow_symlinks=False)
    os.chown(path, uid, uid, follow_symlinks=False)
