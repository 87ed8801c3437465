"""The ``/etc`` of sandboxes without an image: one prepared directory, not a mount for each part.

bwrap looks through all mounts for each that it makes, so eighteen of them were a fifth of a cold
start. What the host has of those parts is copied once, and again when it changes; that is seen by
the times of the files and of all directories among them, which programs that keep ``/etc`` up to
date change, for they rename.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from intramuros.execution.sandbox.rootfs import (
    MADE_UP,
    RESOLVING,
    TRUST,
    etc_parts,
)

MAX_BYTES: Final = 64 * 1024 * 1024
"""Of what is copied: an ``/etc`` with more is shown part by part."""

_Times = tuple[tuple[str, int, int, int], ...]


class Etc:
    """The prepared directories of one provider.

    Args:
        directory: where they lie; other workers may use the same.
    """

    def __init__(self, directory: Path, host: Path = Path("/etc")) -> None:
        self._directory = directory
        self._host = host
        self._parts: dict[str, Path] = {}
        self._watched: list[str] = []
        self._times: _Times = ()
        self._ready: dict[tuple[bool, bool], Path] = {}

    def prepare(self, *, resolving: bool, trusting: bool) -> Path | None:
        """Return what holds an ``etc`` for a sandbox; None where it cannot be copied.

        Args:
            resolving: whether the sandbox looks up names.
            trusting: whether it is shown what it trusts, over files that must be there for that.
        """
        kind = (resolving, trusting)
        try:
            if not self._ready or _times(self._watched) != self._times:
                self._look()
            if kind not in self._ready:
                self._ready[kind] = self._build(*kind)
        except OSError:
            return None
        return self._ready[kind]

    def _look(self) -> None:
        self._ready.clear()
        self._parts = dict(etc_parts(self._host))
        places, size = [str(part) for part in (self._host, *self._parts.values())], 0
        for part in self._parts.values():
            for folder, _, names in os.walk(part):
                places.append(folder)
                size += sum((Path(folder) / name).lstat().st_size for name in names)
        if size > MAX_BYTES:
            raise OSError(0, "too large to copy")
        self._watched = places
        self._times = _times(places)

    def _build(self, resolving: bool, trusting: bool) -> Path:
        about = json.dumps([self._times, MADE_UP, RESOLVING, resolving, trusting, 1])
        target = self._directory / f"etc-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
        if target.is_dir():
            return target
        draft = Path(tempfile.mkdtemp(prefix="new-etc-", dir=self._directory))
        try:
            etc = draft / "etc"
            etc.mkdir()
            for name, part in self._parts.items():
                _copy(part, etc / name)
            for name, text in {**MADE_UP, **(RESOLVING if resolving else {})}.items():
                (etc / name).write_text(text)
            if trusting:
                (etc / Path(TRUST).name).touch()
            _open_to_all(draft)
            draft.rename(target)
        except (OSError, shutil.Error) as error:
            if not target.is_dir():
                raise OSError(0, "cannot be copied") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return target


def _times(places: list[str]) -> _Times:
    return tuple((place, *_time(os.lstat(place))) for place in places)


def _time(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_mtime_ns, info.st_ino, info.st_size


def _copy(source: Path, target: Path) -> None:
    if not _is_public(source.stat()):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(
            source, target, symlinks=True, ignore=_closed, copy_function=shutil.copyfile
        )
    else:
        shutil.copyfile(source, target)


def _closed(folder: str, names: list[str]) -> list[str]:
    """Name what is no file, directory or link, or closed to others than its owner."""
    return [name for name in names if not _is_public((Path(folder) / name).lstat())]


def _is_public(info: os.stat_result) -> bool:
    if stat.S_ISLNK(info.st_mode):
        return True
    if stat.S_ISDIR(info.st_mode):
        return bool(info.st_mode & 0o005 == 0o005)
    return stat.S_ISREG(info.st_mode) and bool(info.st_mode & 0o004)


def _open_to_all(root: Path) -> None:
    for path in _below(root):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def _below(root: Path) -> Iterator[Path]:
    yield root
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            yield Path(folder) / name
