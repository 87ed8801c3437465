"""What somebody will swear to afterwards: JSON lines that are on disk before anything follows."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """An append-only file of one writer's entries, each with the time of the machine's clock."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._mutex = threading.Lock()

    def write(self, kind: str, *, sync: bool = True, **members: Any) -> None:
        """Append an entry; with ``sync`` it has reached the disk when this returns."""
        line = json.dumps({"kind": kind, "at_us": time.time_ns() // 1000, **members})
        with self._mutex:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            if sync:
                os.fdatasync(self._file.fileno())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def entries(path: Path) -> list[Entry]:
    """Return what stands in a journal, oldest first; nothing if it was never begun."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
