"""Unpack an archive that a stranger made, into a directory that is ours alone.

Zip and tar, plain or compressed. What is in it is bounded before it is read and counted while it
is; a path that leaves the directory refuses the whole archive, links and devices are left out
(contract 24.4, 24.5). Everything here blocks; call it on a thread.
"""

import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from intramuros.protocol.resources.skills import safe_path

MAX_FILES: Final = 4096
MAX_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 64 * 1024
# An archive's own tables and headers are read in one piece; none of a skill is as long as this.
_MAX_PIECE: Final = 2 * 1024 * 1024
_UNIX: Final = (3, 19)
_BROKEN: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
)


class BadArchive(Exception):
    """The archive is damaged, too large, or reaches out of its directory."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    executable: bool
    plain: bool
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, target: Path) -> None:
    """Unpack an archive into a new directory; a single wrapping directory is left out.

    Args:
        target: does not exist yet; after an error, what is in it is to be thrown away.

    Raises:
        BadArchive: it cannot be unpacked, or must not be.
    """
    try:
        with archive.open("rb") as file, _opened(file) as members:
            _extract(members, target)
    except _BROKEN as error:
        raise BadArchive(f"{type(error).__name__}: {error}") from error


def _extract(members: Iterator[_Member], target: Path) -> None:
    target.mkdir(mode=0o755)
    wrapped = target / "in"
    left, count = MAX_BYTES, 0
    tops: set[str] = set()
    flat = False
    wrapped.mkdir(mode=0o755)
    for member in members:
        count += 1
        # What is skipped costs time to pass over, so it counts as well.
        if count > MAX_FILES or member.size > left:
            raise BadArchive(f"more than {MAX_FILES} files or {MAX_BYTES} bytes")
        parts = _parts(member.name)
        if not member.plain or not parts:
            left -= member.size
            continue
        tops.add(parts[0])
        flat = flat or len(parts) == 1
        place = wrapped.joinpath(*parts)
        _make_folders(wrapped, parts[:-1])
        left -= max(_write(member, place, left), member.size)
    _unwrap(target, wrapped, next(iter(tops)) if len(tops) == 1 and not flat else "")


def _unwrap(target: Path, wrapped: Path, top: str) -> None:
    """Move what was unpacked one level up, or two when all of it has one top directory."""
    held = target.parent / f"{target.name}.held"
    (wrapped / top).rename(held)
    if top:
        wrapped.rmdir()
    target.rmdir()
    held.rename(target)


def _parts(name: str) -> tuple[str, ...]:
    """Return the components of a member's name; empty for the directory itself."""
    if name.startswith("/"):
        raise BadArchive(f"absolute path {name[:100]!r}")
    kept = [part for part in name.split("/") if part not in {"", "."}]
    return safe_path("/".join(kept)) if kept else ()


def _make_folders(root: Path, parts: tuple[str, ...]) -> None:
    place = root
    for part in parts:
        place /= part
        if not place.is_dir():
            place.mkdir(mode=0o755)
            place.chmod(0o755)


def _write(member: _Member, place: Path, limit: int) -> int:
    written = 0
    mode = 0o755 if member.executable else 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with member.open() as source, os.fdopen(os.open(place, flags, mode), "wb") as out:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > limit:
                raise BadArchive(f"more than {MAX_BYTES} bytes")
            out.write(chunk)
        os.fchmod(out.fileno(), mode)
    return written


class _Capped:
    """A file that refuses to be read in large pieces, whatever an archive says of itself."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size if 0 <= size <= _MAX_PIECE else _MAX_PIECE + 1)
        if len(data) > _MAX_PIECE:
            raise ValueError("a header is too long")
        return data


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[Iterator[_Member]]:
    head = file.read(6)
    file.seek(0)
    if head[:2] == b"PK":
        with zipfile.ZipFile(cast("IO[bytes]", _Capped(file))) as archive:
            yield _zip_members(archive)
        return
    with (
        _unpacked(file, head) as plain,
        tarfile.open(fileobj=cast("IO[bytes]", _Capped(plain)), mode="r:") as tar,
    ):
        yield _tar_members(tar)


def _unpacked(file: IO[bytes], head: bytes) -> AbstractContextManager[IO[bytes]]:
    opened: object = nullcontext(file)
    if head.startswith(b"\x1f\x8b"):
        opened = gzip.open(file)  # noqa: SIM115  closed by the caller
    elif head.startswith(b"BZh"):
        opened = bz2.open(file)  # noqa: SIM115  closed by the caller
    elif head.startswith(b"\xfd7zXZ"):
        opened = lzma.open(file)  # noqa: SIM115  closed by the caller
    return cast("AbstractContextManager[IO[bytes]]", opened)


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        mode = info.external_attr >> 16 if info.create_system in _UNIX else 0
        regular = not info.is_dir() and stat.S_IFMT(mode) in {0, stat.S_IFREG}

        def open_member(info: zipfile.ZipInfo = info) -> IO[bytes]:
            return archive.open(info)

        yield _Member(info.filename, info.file_size, bool(mode & 0o111), regular, open_member)


def _tar_members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:

        def open_member(info: tarfile.TarInfo = info) -> IO[bytes]:
            found = tar.extractfile(info)
            assert found is not None
            return found

        # Sparse files are small in the archive and as large as they like outside.
        regular = info.isreg() and not info.issparse()
        yield _Member(info.name, info.size, bool(info.mode & 0o111), regular, open_member)
