"""Files that an agent leaves in ``/mnt/session/outputs``: brought to its cloud session.

What runs in the sandbox may change the directory under our hands, and we may be root: so no path is
ever followed. Each part is opened by itself, below the one before it, and only regular files are
read. What is sent is a copy of our own, whose size and digest are known and recorded first.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anyio import to_thread

from intramuros.execution.client import Refused
from intramuros.execution.hosted_client import HostedClient
from intramuros.execution.outflow.copies import Sifted
from intramuros.execution.outflow.gate import UNSEARCHED
from intramuros.execution.outflow.results import Found
from intramuros.execution.record import OUTWARD, Record
from intramuros.execution.releases import Answer, Matter, WayOut
from intramuros.kernel.telemetry import logger
from intramuros.protocol.resources.mounts import MAX_SEGMENTS, check_relative

log = logger("outputs")

# Entries looked at in one pass, and the largest file that is sent.
MAX_ENTRIES: Final = 20_000
MAX_FILE_BYTES: Final = 500 * 1024 * 1024
_CHUNK: Final = 1024 * 1024
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not to wait for the other end of a pipe.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Look:
    """What tells whether a file has changed since it was last looked at."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class Outputs:
    """The outputs of one session.

    Args:
        home: a directory of ours; the sandbox sees only ``home/files``.
    """

    def __init__(self, home: Path, client: HostedClient, record: Record, way: WayOut) -> None:
        self.path = home / "files"
        self._copy = home / "copy"
        self._clean = home / "clean"
        self._client = client
        self._record = record
        self._way = way
        self._seen: dict[str, Look] = {}
        self._sent: dict[str, str] = {}
        self.notices: list[str] = []
        """What the model is to read about outputs that stay; whoever shows it empties the list."""

    async def open(self) -> None:
        """Make the directory, and learn what the server has.

        Raises:
            ControlPlaneError, OSError: one of the two failed.
        """
        await to_thread.run_sync(self._make)
        self._sent = await self._client.outputs()
        self._seen.clear()

    async def sync(self) -> None:
        """Send what is new or changed since the last time, and say what is gone.

        Raises:
            Away, OSError, RecordFailed: not all of it went; the next time tries again.
        """
        found = await to_thread.run_sync(scan, self.path)
        for path, look in found.items():
            if self._seen.get(path) != look:
                await self._bring(path, look)
        for path in [path for path in self._seen if path not in found]:
            if path in self._sent:
                await self._client.remove(path)
                del self._sent[path]
            del self._seen[path]

    async def _bring(self, path: str, look: Look) -> None:
        try:
            await to_thread.run_sync(copy, self.path, path, self._copy)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("output_left_out", error=os.strerror(error.errno or 0))
            self._seen[path] = look
            return
        try:
            if await self._let_out(path):
                self._seen[path] = look
        finally:
            self._copy.unlink(missing_ok=True)
            self._clean.unlink(missing_ok=True)

    async def _let_out(self, path: str) -> bool:
        """Send of our copy what may leave, if the server has not got it already.

        Returns:
            False while a person is still to say whether it may.
        """
        named = await self._way.gate.text(path)
        if named.found.masked:
            await self._withhold(None, named.found, "its name may not leave")
            return True
        sifted = await self._way.gate.file(self._copy, self._clean)
        if sifted is not None and sifted.asks:
            answer = await self._asked(sifted)
            if answer is None:
                return False
            if not answer.allowed:
                await self._withhold(path, sifted.found, answer.why)
                return True
            sifted = await self._way.gate.file(self._copy, self._clean, allowed=True)
        if sifted is None:
            await self._withhold(path, UNSEARCHED, "it could not be searched")
        elif sifted.withheld:
            await self._withhold(path, sifted.found, sifted.withheld)
        elif self._sent.get(path) != sifted.sha256:
            await self._send(path, sifted)
        return True

    async def _asked(self, sifted: Sifted) -> Answer | None:
        releases, digest = self._way.releases, self._way.gate.digest(sifted.sha256.encode())
        what = Matter("output", sifted.found, sifted.size, digest)
        return await releases.look(releases.question(what))

    async def _withhold(self, path: str | None, found: Found, why: str) -> None:
        """Record, and have the model told, that an output stays here."""
        await self._record.write(
            "output.withheld",
            session_id=self._client.work.session_id,
            path=path,
            **found.fields(),
        )
        told = "An output" if path is None else f"The output {path!r}"
        self.notices.append(f"{told} was not brought out of the sandbox: {why}.")

    async def _send(self, path: str, sifted: Sifted) -> None:
        await self._record.write(
            "output.send",
            direction=OUTWARD,
            session_id=self._client.work.session_id,
            path=path,
            bytes=sifted.size,
            sha256=sifted.sha256,
            **sifted.found.fields(),
        )
        source = self._clean if sifted.masked else self._copy
        try:
            await self._client.put(path, source, sifted.size)
        except Refused as error:
            # Tried again when the file changes.
            log.warning("output_refused", status=error.status)
            return
        self._sent[path] = sifted.sha256

    def _make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o755)
        # What a worker that was killed here was about to send.
        for left in (self._copy, self._clean):
            left.unlink(missing_ok=True)


def scan(root: Path) -> dict[str, Look]:
    """Return how each output looks now, by its path below ``root``.

    Files with names that cannot be told, or nested too deeply, are left out.

    Raises:
        OSError: the directory cannot be read, or holds too much.
    """
    found: dict[str, Look] = {}
    seen = 0
    queue: list[tuple[str, ...]] = [()]
    while queue:
        parts = queue.pop()
        with _enter(root, parts) as fd, os.scandir(fd) as entries:
            for entry in entries:
                seen += 1
                if seen > MAX_ENTRIES:
                    raise OSError(errno.EFBIG, "too many files among the outputs")
                here = (*parts, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if len(here) < MAX_SEGMENTS:
                        queue.append(here)
                elif entry.is_file(follow_symlinks=False) and _tellable("/".join(here)):
                    found["/".join(here)] = _look(os.stat(entry.name, dir_fd=fd, **_PLAIN))
    return found


def copy(root: Path, path: str, target: Path) -> tuple[int, str]:
    """Copy an output to a file of ours; returns its size in bytes and SHA-256 in hex.

    Raises:
        OSError: it is gone, no regular file, or too large.
    """
    *folder, name = path.split("/")
    digest, size = hashlib.sha256(), 0
    with _enter(root, tuple(folder)) as fd:
        source = os.open(name, _FILE, dir_fd=fd)
    with os.fdopen(source, "rb") as file, target.open("wb") as out:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, "too large")
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, "too large")
            digest.update(chunk)
            out.write(chunk)
    return size, digest.hexdigest()


_PLAIN: Final[dict[str, bool]] = {"follow_symlinks": False}


@contextmanager
def _enter(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    fd = os.open(root, _FOLDER)
    try:
        for part in parts:
            below = os.open(part, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _look(status: os.stat_result) -> Look:
    return Look(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _tellable(path: str) -> bool:
    try:
        check_relative(path)
    except ValueError:
        return False
    return True
