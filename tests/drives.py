"""Look into workspaces from outside, whatever they are on: a directory, or a drive of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


class Workspace:
    """One session's workspace; each look finds it anew, for it comes and goes with its sandbox.

    Args:
        directory: the provider's, with one entry for each session.
        name: a path in the workspace; the workspace itself when empty.
    """

    def __init__(self, directory: Path, session_id: str, name: str = "") -> None:
        self._plain = directory / session_id / name
        self._image = directory / f"{session_id}.img"
        self._name = name

    def exists(self) -> bool:
        """Return whether it is there."""
        found = self._found()
        if found is not None:
            return found.exists()
        return self._image.exists() and "Inode:" in self._debug("stat")

    def read_text(self) -> str:
        """Return a file's content."""
        found = self._found()
        return self._debug("cat") if found is None else found.read_text()

    def touch(self) -> None:
        """Make an empty file in the workspace of a live sandbox."""
        found = self._found()
        assert found is not None, "no live sandbox has this workspace"
        found.touch()

    def names(self) -> list[str]:
        """Return the names of what is in a directory."""
        found = self._found()
        if found is not None:
            return sorted(path.name for path in found.iterdir())
        lines = self._debug("ls -p").split()
        names = [line.split("/")[5] for line in lines if line.count("/") >= 6]
        return sorted(name for name in names if name not in (".", ".."))

    def _found(self) -> Path | None:
        if self._plain.exists() or not self._image.exists():
            return self._plain
        for root in _mounted(self._image):
            if (root / "workspace").is_dir():  # and no directory below it, as others hold
                return root / "workspace" / self._name
        return None

    def _debug(self, request: str) -> str:
        program = shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin")
        assert program is not None
        argv = [program, "-R", f"{request} /workspace/{self._name}", str(self._image)]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def content(path: Path) -> bytes:
    """Return what a file holds without its holes: a drive is far larger than what is in it."""
    parts, end = [], 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            parts.append(os.pread(file.fileno(), end - start, start))
    return b"".join(parts)


def _mounted(image: Path) -> Iterator[Path]:
    """Yield the mounts of a drive, as processes hold them."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if backing.read_text().strip() == str(image):
                device = (backing.parents[1] / "dev").read_text().strip()
                yield from _held(device)


def _held(device: str) -> Iterator[Path]:
    for held in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            number = held.stat().st_dev
            if f"{os.major(number)}:{os.minor(number)}" == device and held.is_dir():
                yield held
