"""Write down every byte that an edge relays, so that anyone can search it for plaintext.

An option for verification, off by default. Each relayed connection gives two files,
``<number>-<tunnel>.up`` (from control to the gateway) and ``.down``.
"""

from pathlib import Path
from typing import BinaryIO

from intramuros.kernel.errors import OperatorError


class Recorder:
    """A directory of recordings."""

    def __init__(self, directory: Path) -> None:
        """Create the directory (mode 0700).

        Raises:
            OperatorError: it cannot be created.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OperatorError(
                f"cannot create {directory} ({error.strerror})", "name another record_dir"
            ) from error
        self._directory = directory
        self._count = sum(1 for _ in directory.glob("*.up"))

    def start(self, tunnel: str) -> "Recording":
        """Return a recording for one connection."""
        self._count += 1
        stem = self._directory / f"{self._count:06d}-{tunnel}"
        return Recording(stem)


class Recording:
    """The two files of one connection. Unbuffered: what was relayed is in the file."""

    def __init__(self, stem: Path) -> None:
        self._up: BinaryIO = stem.with_suffix(".up").open("xb", buffering=0)
        self._down: BinaryIO = stem.with_suffix(".down").open("xb", buffering=0)

    def up(self, data: bytes) -> None:
        """Record bytes from control."""
        self._up.write(data)

    def down(self, data: bytes) -> None:
        """Record bytes from the gateway."""
        self._down.write(data)

    def close(self) -> None:
        """Close both files."""
        self._up.close()
        self._down.close()
