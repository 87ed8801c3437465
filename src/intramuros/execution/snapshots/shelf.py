"""Where snapshots lie: a directory, or any store that speaks S3, Google's or Azure's language.

Objects have plain names and are written once and whole. In a directory they are on the disk before
a call returns. Every method blocks; call them on a thread.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from intramuros.kernel.errors import OperatorError

MAX_SMALL_BYTES: Final = 4 * 1024 * 1024
_LIST_PAGE: Final = 500
# As the library names what is being written in a directory; it lists none of that.
_PARTIAL: Final = "#1"


class ShelfError(Exception):
    """The store refused: nothing of what was to be written is there."""


class ObjectGone(ShelfError):
    """There is no object of that name."""


class Shelf:
    """A store; use :meth:`open`."""

    def __init__(self, store: ObjectStore, root: Path | None) -> None:
        self._store = store
        self._root = root

    @classmethod
    def open(cls, place: str) -> "Shelf":
        """Open a directory, or a store by its URL (``s3://…``, ``gs://…``, ``az://…``).

        Raises:
            OperatorError: there is no such place, or it cannot be used.
        """
        try:
            if "://" in place and not place.startswith("file://"):
                return cls(from_url(place), None)
            root = Path(place.removeprefix("file://")).absolute()
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            return cls(LocalStore(root), root)
        except (BaseError, OSError, ValueError) as error:
            raise OperatorError(
                f"cannot open the place for snapshots ({str(error).splitlines()[0][:200]})",
                "check --snapshots, and the directory or the bucket's credentials",
            ) from error

    def put(self, name: str, data: bytes, *, new: bool = False) -> bool:
        """Write a small object; with ``new`` return False when there is one of that name.

        Raises:
            ShelfError: the store refused it.
        """
        try:
            obstore.put(self._store, name, data, mode="create" if new else "overwrite")
            self._sync(name)
        except (AlreadyExistsError, FileExistsError):
            return False
        except (BaseError, OSError) as error:
            raise _failed("write", error) from error
        return True

    def get(self, name: str) -> bytes:
        """Return a small object.

        Raises:
            ObjectGone: there is none.
            ShelfError: the store does not give it, or it is not small.
        """
        try:
            found = obstore.get(self._store, name)
            if found.meta["size"] > MAX_SMALL_BYTES:
                raise ShelfError(f"{name} is larger than anything that we write there")
            return bytes(found.bytes())
        except FileNotFoundError as error:
            raise ObjectGone(f"there is no {name}") from error
        except (BaseError, OSError) as error:
            raise _failed("read", error) from error

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with ``prefix/``, sorted."""
        return sorted(name for name, _ in self._list(prefix))

    def old_names(self, prefix: str, before: float) -> list[str]:
        """Return those that were written before a time, in seconds since the epoch."""
        return sorted(name for name, at in self._list(prefix) if at < before)

    def _list(self, prefix: str) -> Iterator[tuple[str, float]]:
        try:
            for batch in obstore.list(self._store, prefix, chunk_size=_LIST_PAGE):
                for meta in batch:
                    yield meta["path"], meta["last_modified"].timestamp()
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise _failed("list", error) from error

    def remove(self, name: str) -> None:
        """Remove an object; harmless when there is none.

        Raises:
            ShelfError: the store refused.
        """
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise _failed("remove", error) from error

    def writer(self, name: str) -> "Writer":
        """Begin a large object; a name must be used once only.

        Raises:
            ShelfError: the store refused.
        """
        if self._root is not None:
            return _Draft(self._root, name)
        return _Upload(self._store, name)

    def reader(self, name: str) -> Iterator[bytes]:
        """Yield a large object's bytes.

        Raises:
            ShelfError: the store does not give it; also while iterating.
        """
        try:
            found = obstore.get(self._store, name)
            for chunk in found.stream(min_chunk_size=1024 * 1024):
                yield bytes(chunk)
        except FileNotFoundError as error:
            raise ObjectGone(f"there is no {name}") from error
        except (BaseError, OSError) as error:
            raise _failed("read", error) from error

    def _sync(self, name: str) -> None:
        if self._root is not None:
            sync(self._root, name)

    def remove_partial(self, before: float) -> int:
        """Remove what writers that died before a time left in a directory; how many.

        Other stores drop such leftovers by a rule of their own, where the operator set one.
        """
        if self._root is None:
            return 0
        removed = 0
        for path in self._root.rglob(f"*{_PARTIAL}"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
        return removed


class Writer(Protocol):
    """A large object on its way: it exists once it is committed, and not before."""

    def write(self, data: bytes) -> None:
        """Take more of it.

        Raises:
            ShelfError: the store refused; abort.
        """
        ...

    def commit(self) -> None:
        """Make it whole, durable and visible.

        Raises:
            ShelfError: the store refused; nothing is there.
        """
        ...

    def abort(self) -> None:
        """Drop what was written. Idempotent, never raises."""
        ...


class _Upload:
    """To a store, in parts."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._out = obstore.open_writer(store, name)

    def write(self, data: bytes) -> None:
        try:
            self._out.write(data)
        except (BaseError, OSError) as error:
            raise _failed("write", error) from error

    def commit(self) -> None:
        try:
            self._out.close()
        except (BaseError, OSError) as error:
            raise _failed("write", error) from error

    def abort(self) -> None:
        """An upload that is not closed never becomes an object."""


class _Draft:
    """Into a directory: the store's own writer tells too late that a disk is full."""

    def __init__(self, root: Path, name: str) -> None:
        self._root = root
        self._name = name
        self._path = root / f"{name}{_PARTIAL}"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._path, flags, 0o600), "wb")
        except OSError as error:
            raise _failed("write", error) from error

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise _failed("write", error) from error

    def commit(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.replace(self._root / self._name)
            sync(self._root, self._name)
        except OSError as error:
            raise _failed("write", error) from error

    def abort(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def sync(root: Path, name: str) -> None:
    """Make a file durable, and each directory on the way to it."""
    path = root / name
    for place in (path, *(root / parent for parent in Path(name).parents)):
        _fsync(place)


def _fsync(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failed(what: str, error: Exception) -> ShelfError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ShelfError(f"the place for snapshots refused to {what} ({reason.splitlines()[0][:200]})")
