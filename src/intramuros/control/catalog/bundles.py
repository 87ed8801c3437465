"""Skill archives: what was uploaded becomes one zip, the same bytes for the same files.

Uploads are foreign: every path is judged, nothing is extracted, sizes are counted and never
believed. Everything here blocks; call it on a thread.
"""

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Final

from intramuros.kernel.errors import InvalidRequest, TooLarge
from intramuros.protocol.resources.skills import (
    MANIFEST,
    MAX_FILES,
    MAX_FRONT_MATTER_BYTES,
    MAX_SKILL_BYTES,
    Manifest,
    read_manifest,
    safe_path,
)

_CHUNK: Final = 64 * 1024
# The whole directory of an archive is read at once; this holds far more than MAX_FILES entries.
_MAX_DIRECTORY: Final = 2 * 1024 * 1024
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = (3, 19)
_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
)


@dataclass(frozen=True)
class Entry:
    """One uploaded file; ``read`` yields its bytes and may be called more than once.

    ``executable`` is None where the upload cannot say; then a ``#!`` line does.
    """

    path: str
    read: Callable[[], Iterator[bytes]]
    executable: bool | None = None


def pack(entries: Sequence[Entry], target: IO[bytes]) -> Manifest:
    """Write a skill's archive: one top directory named after the skill (contract-2 R197).

    Returns:
        What its SKILL.md says.

    Raises:
        InvalidRequest: naming what is wrong with the files.
        TooLarge: over 30 MB uncompressed.
    """
    files = _files(entries)
    manifest = _manifest(files)
    total = 0
    with zipfile.ZipFile(target, "w") as archive:
        for parts, entry in sorted(files.items()):
            chunks = entry.read()
            first = next(chunks, b"")
            executable = first[:2] == b"#!" if entry.executable is None else entry.executable
            info = zipfile.ZipInfo("/".join((manifest.name, *parts[1:])), _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = _UNIX[0]
            info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            with archive.open(info, "w") as out:
                for chunk in _all(first, chunks):
                    total += len(chunk)
                    if total >= MAX_SKILL_BYTES:
                        raise too_large()
                    out.write(chunk)
    return manifest


@contextmanager
def unzipped(source: IO[bytes]) -> Iterator[list[Entry]]:
    """Give the files of an uploaded zip.

    Raises:
        InvalidRequest: it is none, is damaged, or holds links or special files.
    """
    with ExitStack() as stack:
        with _foreign():
            archive = stack.enter_context(zipfile.ZipFile(_Capped(source)))
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if len(infos) > MAX_FILES:
            raise _refuse(f"at most {MAX_FILES} files")
        yield [_entry(archive, info) for info in infos]


def spooled(source: IO[bytes], offset: int, size: int) -> Callable[[], Iterator[bytes]]:
    """Return a reader of a part of a file."""

    def read() -> Iterator[bytes]:
        place, left = offset, size
        while left:
            source.seek(place)
            chunk = source.read(min(left, _CHUNK))
            place, left = place + len(chunk), left - len(chunk)
            yield chunk

    return read


def too_large() -> TooLarge:
    """Return the refusal of a skill that is too large (contract-2 R191)."""
    return TooLarge(f"files: a skill holds less than {MAX_SKILL_BYTES} bytes uncompressed")


class _Capped:
    """A file that refuses to be read in large pieces, whatever an archive says of itself."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size if 0 <= size <= _MAX_DIRECTORY else _MAX_DIRECTORY + 1)
        if len(data) > _MAX_DIRECTORY:
            raise zipfile.BadZipFile("the archive's directory is too large")
        return data


@contextmanager
def _foreign() -> Iterator[None]:
    """Turn what a damaged archive does to its reader into a refusal."""
    try:
        yield
    except _BROKEN as error:
        raise _refuse("the zip archive is damaged or encrypted") from error


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    mode = info.external_attr >> 16 if info.create_system in _UNIX else 0
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        raise _refuse(f"{info.filename[:100]!r} is a link or a special file")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise _refuse(f"{info.filename[:100]!r} is packed in an unusual way")

    def read() -> Iterator[bytes]:
        with _foreign(), archive.open(info) as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    return Entry(info.filename, read, bool(mode & 0o111) if mode else None)


def _files(entries: Sequence[Entry]) -> dict[tuple[str, ...], Entry]:
    if not entries:
        raise _refuse(f"send the skill's files as parts named `files[]`, {MANIFEST} among them")
    if len(entries) > MAX_FILES:
        raise _refuse(f"at most {MAX_FILES} files")
    files: dict[tuple[str, ...], Entry] = {}
    for entry in entries:
        try:
            parts = safe_path(entry.path)
        except ValueError as error:
            raise _refuse(str(error)) from error
        if parts in files:
            raise _refuse(f"{entry.path[:100]!r} appears twice")
        files[parts] = entry
    tops = {parts[0] for parts in files}
    if len(tops) > 1 or any(len(parts) == 1 for parts in files):
        raise _refuse("all files must lie in one top directory")
    for parts in files:
        if any(parts[:depth] in files for depth in range(1, len(parts))):
            raise _refuse(f"{'/'.join(parts)[:100]!r} lies below a file")
    return files


def _manifest(files: dict[tuple[str, ...], Entry]) -> Manifest:
    folder = next(iter(files))[0]
    entry = files.get((folder, MANIFEST))
    if entry is None:
        raise _refuse(f"{folder[:100]}/{MANIFEST} is missing")
    head = b""
    for chunk in entry.read():
        head += chunk
        if len(head) >= MAX_FRONT_MATTER_BYTES:
            break
    try:
        return read_manifest(head[:MAX_FRONT_MATTER_BYTES], folder)
    except ValueError as error:
        raise _refuse(str(error)) from error


def _all(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _refuse(why: str) -> InvalidRequest:
    return InvalidRequest(f"files: {why}")
