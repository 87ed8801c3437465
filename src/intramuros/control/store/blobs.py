"""Files and skill archives: bytes in an object store, streamed in and out.

The only file that imports the object store's library. A blob is written once under a name that was
never used before, is durable before anybody refers to it, and is read back against its digest.
"""

import hashlib
import os
import re
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import obstore
from anyio import to_thread
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from intramuros.kernel.errors import OperatorError, TooLarge, Unavailable
from intramuros.kernel.telemetry import logger

log = logger("blobs")

# What one upload or download keeps in memory is a few of these.
CHUNK_BYTES: Final = 1024 * 1024
_PARALLEL: Final = 2
_LIST_PAGE: Final = 500
# How the library names a file of a directory that is still being written; it never lists them.
_PARTIAL: Final = re.compile(r"#\d+\Z")


@dataclass(frozen=True)
class Blob:
    """A stored blob: its name in the store, its size in bytes and its SHA-256 in hex."""

    key: str
    size_bytes: int
    sha256: str


class Blobs:
    """An object store; use :meth:`open`."""

    def __init__(self, store: ObjectStore, root: Path | None = None) -> None:
        self._store = store
        self._root = root

    @classmethod
    def open(cls, url: str | None, data_dir: Path) -> "Blobs":
        """Open the store.

        Args:
            url: ``s3://…``, ``gs://…``, ``az://…`` or ``file:///…``; None means the directory
                ``blobs`` of the data directory.

        Raises:
            OperatorError: no such kind of store, or the directory cannot be used.
        """
        try:
            if url is None:
                root = (data_dir / "blobs").absolute()
                root.mkdir(parents=True, exist_ok=True, mode=0o700)
                return cls(LocalStore(root), root)
            if url.startswith("file://"):
                root = Path(url.removeprefix("file://"))
                return cls(LocalStore(root, mkdir=True), root)
            return cls(from_url(url))
        except (BaseError, OSError, ValueError) as error:
            scheme = (url or "file").partition(":")[0]
            raise OperatorError(
                f"cannot open the blob store ({scheme}: {str(error).splitlines()[0]})",
                "check --blob-url, and the directory or the bucket's credentials",
            ) from error

    async def put(self, key: str, chunks: AsyncIterable[bytes], max_bytes: int) -> Blob:
        """Store a blob as it arrives; nothing of it stays when it does not arrive whole.

        Returns:
            What was stored; it is durable.

        Raises:
            TooLarge: more than ``max_bytes``.
            Unavailable: the store refused it.
            Exception: whatever ``chunks`` raised.
        """
        digest, size = hashlib.sha256(), 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise TooLarge(f"file: over the limit of {max_bytes} bytes")
                digest.update(chunk)
                yield chunk

        try:
            await obstore.put_async(
                self._store, key, counted(), chunk_size=CHUNK_BYTES, max_concurrency=_PARALLEL
            )
            if self._root is not None:
                await to_thread.run_sync(_sync, self._root, key)
        except (BaseError, OSError) as error:
            raise Unavailable("the blob store refused the write; nothing was kept") from error
        return Blob(key, size, digest.hexdigest())

    async def read(
        self, blob: Blob, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Return a blob's bytes, or those from ``start`` until ``end`` (exclusive).

        A whole blob is checked against its digest; its last bytes are held back until then, so that
        a damaged one never looks complete.

        Raises:
            Unavailable: the store does not give it; also while iterating.
        """
        end = blob.size_bytes if end is None else end
        if end <= start:
            return _check(_nothing(), blob, whole=blob.size_bytes == 0)
        try:
            result = await obstore.get_async(self._store, blob.key, options={"range": (start, end)})
        except (BaseError, OSError) as error:
            log.error("blob_unreadable", key=blob.key, error=type(error).__name__)
            raise Unavailable("the blob store does not give this content now") from error
        stream = result.stream(min_chunk_size=CHUNK_BYTES)
        return _check(stream, blob, whole=(start, end) == (0, blob.size_bytes))

    async def holds(self, blob: Blob) -> bool:
        """Tell whether a blob of that name and size is there, without reading it.

        Raises:
            Unavailable: the store does not say.
        """
        try:
            found = await obstore.head_async(self._store, blob.key)
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise Unavailable("the blob store does not answer now") from error
        return found["size"] == blob.size_bytes

    async def remove(self, keys: Iterable[str]) -> None:
        """Remove blobs; one that is gone already is fine.

        Raises:
            Unavailable: the store refused; some may be gone.
        """
        for key in keys:
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise Unavailable("the blob store refused a removal") from error

    async def remove_partial(self, before: datetime) -> int:
        """Remove what uploads cut off by a crash before a time left in a directory; how many.

        Other stores drop such leftovers by a rule of their own, where the operator set one.
        """
        if self._root is None:
            return 0
        return await to_thread.run_sync(_remove_partial, self._root, before)

    async def older_than(self, before: datetime) -> AsyncIterator[list[str]]:
        """Yield the names of the blobs written before a time, some at once."""
        try:
            async for batch in obstore.list(self._store, chunk_size=_LIST_PAGE):
                yield [meta["path"] for meta in batch if meta["last_modified"] < before]
        except (BaseError, OSError) as error:
            raise Unavailable("the blob store cannot be listed") from error


def new_key() -> str:
    """Return a name for a blob; spread over folders, for stores that are directories."""
    name = uuid.uuid4().hex
    return f"{name[:2]}/{name}"


def _remove_partial(root: Path, before: datetime) -> int:
    removed = 0
    for path in root.rglob("*#*"):
        with suppress(FileNotFoundError):
            if _PARTIAL.search(path.name) and path.stat().st_mtime < before.timestamp():
                path.unlink()
                removed += 1
    return removed


async def _check(chunks: AsyncIterable[bytes], blob: Blob, *, whole: bool) -> AsyncIterator[bytes]:
    digest, held = hashlib.sha256(), b""
    try:
        async for chunk in chunks:
            data = bytes(chunk)
            digest.update(data)
            if held:
                yield held
            held = data
    except (BaseError, OSError) as error:
        raise Unavailable("the blob store stopped giving this content") from error
    if whole and digest.hexdigest() != blob.sha256:
        log.error("blob_damaged", key=blob.key)
        raise Unavailable("this content is damaged in the blob store")
    if held:
        yield held


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _sync(root: Path, key: str) -> None:
    """Make a file durable, and each directory on the way to it."""
    path = root / key
    for place in (path, *path.relative_to(root).parents):
        fd = os.open(root / place, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
