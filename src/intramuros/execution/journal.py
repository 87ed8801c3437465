"""What a worker that was killed must know about the calls it was running.

One directory per session, one small file per unfinished call: empty while the call runs, the
filtered result once it is done. A result that waits for a person's word is there, too, in full: it
lies inside, like the sandbox that it comes from. It goes when the control plane has the result, so
the journal holds only what no one else knows. A call that is ``done`` is posted, never run again; a
call that was only ``started`` has an unknown effect.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
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
    HELD = "held"
    DONE = "done"


@dataclass(frozen=True)
class Result:
    """A filtered outcome, ready to be posted."""

    content: list[dict[str, Any]]
    is_error: bool


@dataclass(frozen=True)
class Held:
    """A result that leaves only if a person allows it, and what he is asked (JSON)."""

    result: Result
    question: dict[str, Any]
    denied: list[dict[str, Any]]
    """What the model reads otherwise, before the reason is added."""


class Journal:
    """The directory of unfinished calls. Methods block on the disk: call them on a thread.

    Raises (every method): OSError when the disk refuses.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Most calls were never seen before; knowing which were saves a look at the disk for each.
        self._noted = set(root.glob("*/*.call"))

    def noted(self, session_id: str, call_id: str) -> bool:
        """Tell, without touching the disk, whether there is anything about a call."""
        return self._path(session_id, call_id) in self._noted

    def progress(self, session_id: str, call_id: str) -> tuple[Progress, Result | None]:
        """Return how far a call got, and its result when it is done."""
        path = self._path(session_id, call_id)
        if path not in self._noted:
            return Progress.UNKNOWN, None
        found = _read(path)
        if "held" in found:
            return Progress.HELD, None
        result = _result(found)
        return (Progress.STARTED, None) if result is None else (Progress.DONE, result)

    def held(self, session_id: str, call_id: str) -> Held | None:
        """Return what is held back of a call; None when it cannot be read."""
        held = _read(self._path(session_id, call_id)).get("held")
        result = _result(held) if isinstance(held, dict) else None
        if result is None or not isinstance(held, dict):
            return None
        asked, denied = held.get("question"), held.get("denied")
        if not isinstance(asked, dict) or not isinstance(denied, list):
            return None
        return Held(result, asked, denied)

    def hold(self, session_id: str, call_id: str, held: Held) -> None:
        """Note what a call returned and nobody has allowed to leave yet."""
        path = self._path(session_id, call_id)
        self._noted.add(path)
        self._make_folder(path.parent)
        result = {"content": held.result.content, "is_error": held.result.is_error}
        body = {**result, "question": held.question, "denied": held.denied}
        _write(path, json.dumps({"held": body}).encode())

    def start(self, session_id: str, call_id: str) -> None:
        """Note durably that a call is about to run."""
        path = self._path(session_id, call_id)
        self._noted.add(path)
        self._make_folder(path.parent)
        path.open("ab").close()
        _sync(path.parent)

    def finish(self, session_id: str, call_id: str, result: Result) -> None:
        """Note what a call returned; a power failure may leave it at ``started``, no less."""
        path = self._path(session_id, call_id)
        self._noted.add(path)
        self._make_folder(path.parent)
        data = json.dumps({"content": result.content, "is_error": result.is_error}).encode()
        _write(path, data)

    def settle(self, session_id: str, call_id: str) -> None:
        """Forget a call whose result the control plane has, or that nobody waits for."""
        path = self._path(session_id, call_id)
        path.unlink(missing_ok=True)
        self._noted.discard(path)

    def forget(self, session_id: str) -> None:
        """Forget a session that is over."""
        folder = self._folder(session_id)
        shutil.rmtree(folder, ignore_errors=True)
        self._noted = {path for path in self._noted if path.parent != folder}

    def tidy(self, session_id: str) -> None:
        """Remove the session's directory when nothing is left in it."""
        with suppress(OSError):
            self._folder(session_id).rmdir()

    def _make_folder(self, folder: Path) -> None:
        if not folder.exists():
            folder.mkdir(mode=0o700)
            _sync(self._root)

    def _folder(self, session_id: str) -> Path:
        # Ids come from the control plane; a digest keeps them from naming a path.
        return self._root / _digest(session_id)

    def _path(self, session_id: str, call_id: str) -> Path:
        return self._folder(session_id) / f"{_digest(call_id)}.call"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(MAX_RESULT_BYTES))
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _result(data: dict[str, Any]) -> Result | None:
    content, is_error = data.get("content"), data.get("is_error")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        return None
    return Result(content, is_error is True)


def _write(path: Path, data: bytes) -> None:
    """Write a whole file or none of it."""
    draft = path.with_suffix(".draft")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fdatasync(fd)
    finally:
        os.close(fd)
    draft.replace(path)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
