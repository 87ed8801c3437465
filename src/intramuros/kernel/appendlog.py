"""A durable append-only file of lines.

``append`` returns after the line is on disk (``fdatasync``), so that a caller may act on it. A torn
last line, left by a crash in the middle of a write, is cut off when the file is opened: it was
never acknowledged. One process owns a file at a time (an advisory lock).
"""

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from intramuros.kernel.errors import OperatorError

# A record larger than this is a mistake of the caller; it also bounds the repair read.
MAX_LINE_BYTES = 1024 * 1024


class AppendLog:
    """One open file of newline-terminated UTF-8 lines. Safe to call from several threads."""

    def __init__(self, path: Path) -> None:
        """Open or create the file (mode 0600), lock it and repair a torn tail.

        Raises:
            OperatorError: the file cannot be opened, or another process owns it.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OperatorError(
                f"cannot open {path} ({error.strerror})", "check the directory's owner and space"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise OperatorError(
                f"{path} is in use by another process", "stop it or name another file"
            ) from error
        self._mutex = threading.Lock()
        self.last_line = _repair(self._fd)

    def append(self, line: str) -> None:
        """Write one line and return once it is durable.

        Raises:
            OSError: the disk refused it (full, read-only, gone); nothing of the line remains.
            ValueError: the line is too long or holds a newline.
        """
        self.append_all([line])

    def append_all(self, lines: Sequence[str]) -> None:
        """Write several lines with one sync, all or none, and return once they are durable.

        Raises:
            OSError: the disk refused them; nothing of them remains.
            ValueError: a line is too long or holds a newline.
        """
        encoded = [line.encode() + b"\n" for line in lines]
        if any(len(line) > MAX_LINE_BYTES or b"\n" in line[:-1] for line in encoded):
            raise ValueError("a record must be one line of at most 1 MiB")
        data = b"".join(encoded)
        with self._mutex:
            end = os.fstat(self._fd).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._fd, data[written:])
                os.fdatasync(self._fd)
            except OSError:
                os.ftruncate(self._fd, end)
                raise
            self.last_line = lines[-1]

    def close(self) -> None:
        """Release the lock and the file."""
        os.close(self._fd)

    def __enter__(self) -> "AppendLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_lines(path: Path) -> Iterator[str]:
    """Yield the complete lines of a file, without their newlines; a torn tail is left out."""
    with path.open("rb") as file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield raw[:-1].decode()


def _repair(fd: int) -> str | None:
    """Cut a torn tail and return the last complete line, or None when there is none."""
    size = os.fstat(fd).st_size
    start = max(0, size - 2 * MAX_LINE_BYTES)
    tail = os.pread(fd, size - start, start)
    end = tail.rfind(b"\n") + 1
    if end < len(tail):
        os.ftruncate(fd, start + end)
        os.fdatasync(fd)
    complete = tail[:end]
    if not complete:
        return None
    return complete[:-1].rpartition(b"\n")[2].decode()
