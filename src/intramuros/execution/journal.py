"""What a worker that was killed must know about the calls it was running.

One directory per session, two small files per unfinished call: ``<digest>.started`` before the
call runs, and ``<digest>.done`` with the filtered result before it is posted. Both go once the
control plane has the result, so the journal holds only what no one else knows. A call that is
``done`` is posted, never run again; a call that was only ``started`` has an unknown effect.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

# A result is bounded by the request body it travels in.
MAX_RESULT_BYTES: Final = 33 * 1024 * 1024


class Progress(StrEnum):
    """How far a call got before."""

    UNKNOWN = "unknown"
    STARTED = "started"
    DONE = "done"


@dataclass(frozen=True)
class Result:
    """A filtered outcome, ready to be posted."""

    content: list[dict[str, Any]]
    is_error: bool


class Journal:
    """The directory of unfinished calls. Methods block on the disk: call them on a thread.

    Raises (every method): OSError when the disk refuses.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def progress(self, session_id: str, call_id: str) -> tuple[Progress, Result | None]:
        """Return how far a call got, and its result when it is done."""
        done = self._path(session_id, call_id, Progress.DONE)
        result = _read(done)
        if result is not None:
            return Progress.DONE, result
        if done.exists() or self._path(session_id, call_id, Progress.STARTED).exists():
            return Progress.STARTED, None
        return Progress.UNKNOWN, None

    def start(self, session_id: str, call_id: str) -> None:
        """Note durably that a call is about to run."""
        folder = self._folder(session_id)
        if not folder.exists():
            folder.mkdir(mode=0o700)
            _sync(self._root)
        _write(self._path(session_id, call_id, Progress.STARTED), b"")

    def finish(self, session_id: str, call_id: str, result: Result) -> None:
        """Note durably what a call returned."""
        data = json.dumps({"content": result.content, "is_error": result.is_error}).encode()
        self._folder(session_id).mkdir(exist_ok=True, mode=0o700)
        _write(self._path(session_id, call_id, Progress.DONE), data)

    def settle(self, session_id: str, call_id: str) -> None:
        """Forget a call whose result the control plane has, or that nobody waits for."""
        # Started first: if we die in between, the call is still known to be done.
        for progress in (Progress.STARTED, Progress.DONE):
            self._path(session_id, call_id, progress).unlink(missing_ok=True)

    def forget(self, session_id: str) -> None:
        """Forget a session that is over."""
        shutil.rmtree(self._folder(session_id), ignore_errors=True)

    def _folder(self, session_id: str) -> Path:
        # Ids come from the control plane; a digest keeps them from naming a path.
        return self._root / hashlib.sha256(session_id.encode()).hexdigest()[:40]

    def _path(self, session_id: str, call_id: str, progress: Progress) -> Path:
        name = hashlib.sha256(call_id.encode()).hexdigest()[:40]
        return self._folder(session_id) / f"{name}.{progress}"


def _read(path: Path) -> Result | None:
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(MAX_RESULT_BYTES))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(data, dict):
        return None
    content, is_error = data.get("content"), data.get("is_error")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        return None
    return Result(content, is_error is True)


def _write(path: Path, data: bytes) -> None:
    """Write a whole file or none of it, durably."""
    draft = path.with_suffix(".draft")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
