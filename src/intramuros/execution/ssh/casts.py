"""Recordings of terminals, as asciinema files (version 2), for operators who want them."""

import hashlib
import json
import os
from codecs import getincrementaldecoder
from contextlib import suppress
from pathlib import Path
from typing import Final

from intramuros.kernel.timing import Clock

MAX_BYTES: Final = 64 * 1024 * 1024
"""Of one recording; what comes later is left out, and the file says so."""
_MARK_BYTES: Final = 100


class Cast:
    """One recording; every method but the first is harmless once the disk is full."""

    def __init__(self, path: Path, clock: Clock, rows: int, columns: int) -> None:
        """Begin a recording that only this user can read.

        Raises:
            OSError: the file cannot be made.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb")
        self._clock = clock
        self._began = clock.monotonic()
        self._digest = hashlib.sha256()
        self._left = MAX_BYTES - _MARK_BYTES
        self._written = 0
        self._decoders = {kind: getincrementaldecoder("utf-8")("replace") for kind in "io"}
        head = {"version": 2, "width": columns, "height": rows}
        self._line({**head, "timestamp": int(clock.now().timestamp())})

    def output(self, data: bytes) -> None:
        """Record what the person saw."""
        self._event("o", data)

    def input(self, data: bytes) -> None:
        """Record what the person typed."""
        self._event("i", data)

    def resize(self, rows: int, columns: int) -> None:
        """Record another size of the terminal."""
        self._line([self._at(), "r", f"{columns}x{rows}"])

    def close(self) -> tuple[int, str]:
        """End the recording and return its size in bytes and its SHA-256 in hex."""
        with suppress(OSError):
            self._file.close()
        return self._written, self._digest.hexdigest()

    def _event(self, kind: str, data: bytes) -> None:
        text = self._decoders[kind].decode(data)
        if text:
            self._line([self._at(), kind, text])

    def _at(self) -> float:
        return round(self._clock.monotonic() - self._began, 6)

    def _line(self, value: object) -> None:
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        if self._left <= 0:
            return
        if len(line) > self._left:
            line = json.dumps([self._at(), "m", "recording ends: too long"]).encode() + b"\n"
            self._left = 0
        try:
            self._file.write(line)
        except OSError:
            self._left = 0
            return
        self._digest.update(line)
        self._written += len(line)
        self._left = max(0, self._left - len(line))
