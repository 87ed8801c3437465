"""What agents work in: one workspace per session, kept across sandboxes and worker restarts.

Where the host can, each is on a drive of its own, ``<id>.img``, which ends where the session's
quota ends; otherwise it is a directory, ``<id>``, and watched. A directory that is there is used as
it is.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from intramuros.execution.sandbox import trees
from intramuros.execution.sandbox.base import Limits
from intramuros.execution.sandbox.drives import SUFFIX, Drive, Drives, Shape


@dataclass(frozen=True)
class Workspace:
    """One that is open: this process reaches it by its path."""

    path: Path
    drive: Drive | None = None

    @property
    def owner(self) -> int:
        """The uid that it belongs to."""
        return self.path.lstat().st_uid


class Workspaces:
    """Makes, opens and removes workspaces.

    Args:
        directory: holds one entry per sandbox id.
        drives: makes the drives; None where all are directories.
    """

    def __init__(self, directory: Path, drives: Drives | None = None) -> None:
        self._directory = directory
        self._drives = drives
        self._open: dict[str, Drive] = {}

    def path(self, sandbox_id: str) -> Path:
        """Return where a sandbox's workspace is or would be, as far as this process goes."""
        drive = self._open.get(sandbox_id)
        return self._directory / sandbox_id if drive is None else drive.workspace

    def exists(self, sandbox_id: str) -> bool:
        """Return whether a sandbox has left a workspace, or has one."""
        return os.path.lexists(self._directory / sandbox_id) or self._image(sandbox_id).exists()

    def all(self) -> list[str]:
        """Return the sandbox ids that have a workspace."""
        return sorted({path.name.removesuffix(SUFFIX) for path in self._directory.glob("*")})

    async def open(self, sandbox_id: str, limits: Limits) -> Workspace:
        """Return the workspace, made if need be.

        Raises:
            SandboxError: the host's disk refuses.
        """
        path, image = self._directory / sandbox_id, self._image(sandbox_id)
        drives = self._drives
        if not image.exists() and (path.exists() or drives is None or drives.lack):
            path.mkdir(mode=0o700, exist_ok=True)
            return Workspace(path)
        shape = Shape.of(limits)
        # With what it holds it must not be lost, even where new ones cannot be made any more.
        drives = drives or Drives(self._directory)
        drive = self._open.get(sandbox_id)
        if drive is None:
            get = drives.open if image.exists() else drives.new
            drive = self._open[sandbox_id] = await get(image, shape)
        return Workspace(drive.workspace, drive)

    async def give(self, path: Path, uid: int | None) -> None:
        """Make ``uid`` the owner of a tree; None leaves it to us."""
        if uid is not None:
            await to_thread.run_sync(_give, path, uid)

    async def close(self, sandbox_id: str) -> None:
        """The sandbox is gone: let its drive go. Idempotent."""
        drive = self._open.pop(sandbox_id, None)
        if drive is not None:
            await (self._drives or Drives(self._directory)).leave(drive)

    async def trim(self) -> None:
        """Give what open drives do not use any more back to the host's disk."""
        for drive in list(self._open.values()):
            with suppress(OSError):
                await to_thread.run_sync(drive.trim)

    async def remove(self, sandbox_id: str) -> None:
        """Remove a workspace and all in it; harmless when there is none."""
        path, image = self._directory / sandbox_id, self._image(sandbox_id)
        if image.exists():
            await to_thread.run_sync(image.unlink)  # what it holds goes when it is closed
        await self.close(sandbox_id)
        if path.exists():
            await to_thread.run_sync(trees.remove, os.fspath(path))

    def rename(self, sandbox_id: str, home: "Workspaces", name: str) -> None:
        """Make it the workspace ``name`` of ``home``, on the same file system.

        Raises:
            OSError: it cannot be.
        """
        image = self._image(sandbox_id)
        if image.exists():
            image.rename(home._image(name))
        else:
            (self._directory / sandbox_id).rename(home._directory / name)
        drive = self._open.pop(sandbox_id, None)
        if drive is not None:
            home._open[name] = Drive(home._image(name), drive.device, drive.root)

    def _image(self, sandbox_id: str) -> Path:
        return self._directory / f"{sandbox_id}{SUFFIX}"


def _give(path: Path, uid: int) -> None:
    """Make ``uid`` the owner of a tree; the top last, so that a half-given tree is given again."""
    if path.lstat().st_uid == uid:
        return
    for _, names, files, fd in os.fwalk(path, topdown=False, follow_symlinks=False):
        for name in (*names, *files):
            os.chown(name, uid, uid, dir_fd=fd, follow_symlinks=False)
    os.chown(path, uid, uid, follow_symlinks=False)
