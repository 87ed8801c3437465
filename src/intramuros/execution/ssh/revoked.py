"""Which certificates let nobody in any more, though they are still good: the operator's list.

The lines are those of ``ssh-keygen -k -s`` (``serial:``, ``id:``, ``hash:``), so the same file
makes a list of revoked keys for OpenSSH's own servers. It is looked at again whenever it changes.
While it cannot be read, nobody comes in; those who are in stay.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger

log = logger("ssh")

MAX_LINES: Final = 10_000
_MAX_BYTES: Final = 1024 * 1024
_LINE: Final = re.compile(
    r"(?:serial:\s*(?P<first>\d{1,20})(?:-(?P<last>\d{1,20}))?"
    r"|id:\s*(?P<id>\S[^\0]{0,255})"
    r"|hash:\s*(?P<hash>SHA256:[A-Za-z0-9+/]{43}))",
    re.ASCII,
)


@dataclass(frozen=True)
class Papers:
    """What a certificate is known by."""

    serial: int
    key_id: str
    fingerprint: str
    """Of the holder's key, ``SHA256:…``."""
    authority: str = ""
    """Fingerprint of the key that signed it."""
    revocable: bool = False
    """Whether it says that its authority can take it back (``bulletin.py``)."""
    expires_s: float = 0.0
    """When it ends by itself, seconds since 1970."""


@dataclass
class _Listed:
    serials: list[tuple[int, int]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    hashes: set[str] = field(default_factory=set)


class Revoked:
    """One list; without a file there is none.

    Raises:
        OperatorError: the file cannot be used.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._listed: _Listed | None = _Listed()
        self._state: tuple[int, ...] | None = None
        if file is not None:
            self._state, self._listed = _state(file), _read(file)

    def holds(self, papers: Papers) -> bool:
        """Tell whether they are on the list as it was when it could last be read."""
        self._look()
        listed = self._listed
        return listed is not None and (
            papers.key_id in listed.ids
            or papers.fingerprint in listed.hashes
            or any(first <= papers.serial <= last for first, last in listed.serials)
        )

    def refuses(self, papers: Papers) -> bool:
        """Tell whether they let nobody in: they are on the list, or nobody knows."""
        return self.holds(papers) or self._listed is None

    def _look(self) -> None:
        if self._file is None:
            return
        try:
            state = _state(self._file)
            if state == self._state:
                return
            self._state, self._listed = state, _read(self._file)
            log.info("ssh_revoked_read", file=str(self._file))
        except OperatorError as error:
            if self._listed is not None:
                log.error("ssh_revoked_unreadable", why=error.problem)
            self._listed = None


def _state(file: Path) -> tuple[int, ...]:
    try:
        info = file.stat()
    except OSError as error:
        raise _refused(file, error.strerror or "unknown") from error
    return info.st_mtime_ns, info.st_size, info.st_ino, info.st_mode


def _read(file: Path) -> _Listed:
    """Return what a file lists.

    Raises:
        OperatorError: it cannot be read, others may write it, or a line is something else.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
            mode = file.stat().st_mode
        lines = [line.strip() for line in raw.decode("utf-8").splitlines()]
    except OSError as error:
        raise _refused(file, error.strerror or "unknown") from error
    except UnicodeDecodeError as error:
        raise _refused(file, "it is no text") from error
    if mode & 0o022:
        raise OperatorError(f"others may write {file}", f"run: chmod go-w {file}")
    if len(raw) > _MAX_BYTES or len(lines) > MAX_LINES:
        raise _refused(file, f"it has more than {MAX_LINES} lines")
    listed = _Listed()
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            found = _LINE.fullmatch(line)
            if found is None:
                raise _refused(file, f"line {number} is none of serial:, id: and hash:")
            _add(listed, found)
    return listed


def _add(listed: _Listed, found: re.Match[str]) -> None:
    if found["id"] is not None:
        listed.ids.add(found["id"])
    elif found["hash"] is not None:
        listed.hashes.add(found["hash"])
    else:
        listed.serials.append((int(found["first"]), int(found["last"] or found["first"])))


def _refused(file: Path, why: str) -> OperatorError:
    return OperatorError(
        f"cannot use {file} ({why})", "list what is revoked, a line each: docs/how-to/ssh.md"
    )
