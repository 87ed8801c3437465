"""What this worker's own workspaces are: whole and of which number, or half restored.

One small file for each session that was ever woken here. It is what a worker that was killed has to
know: whether the files on its disk are newer than the snapshot, or a part of it.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_MAX_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One session's workspace on this host."""

    number: int
    """Of the head that it came from; 0 when the session was never put away."""
    whole: bool
    """False while it is being restored: it is worth nothing then."""
    notice: str = ""
    """What the session is still to be told."""


class Ledger:
    """The directory of entries. Every method blocks, and raises OSError when the disk refuses."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def read(self, session_id: str) -> Entry | None:
        """Return the entry, None when there is none that can be read."""
        try:
            with self._path(session_id).open("rb") as file:
                return Entry(**json.loads(file.read(_MAX_BYTES)))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, session_id: str, entry: Entry, *, durable: bool = True) -> None:
        """Write an entry, whole or not at all; a power failure takes none that is durable."""
        path = self._path(session_id)
        draft = path.with_suffix(".new")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(asdict(entry), file)
            file.flush()
            if durable:
                os.fsync(fd)
        draft.replace(path)
        if durable:
            self._sync()

    def remove(self, session_id: str) -> None:
        """Forget a session; harmless when it is not known."""
        self._path(session_id).unlink(missing_ok=True)
        self._sync()

    def _path(self, session_id: str) -> Path:
        digest = hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()
        return self._root / f"{digest[:40]}.json"

    def _sync(self) -> None:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
