"""Copies blobs from one store to another; what is there already, and right, stays."""

import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import anyio
from sqlalchemy import select

from intramuros.control.store.blobs import Blob, Blobs
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import blobs as table
from intramuros.control.store.whole import Tell
from intramuros.kernel.errors import DomainError, Unavailable

# Copied at once: an object store far away takes its time for each.
PARALLEL: Final = 8
_END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)


def held(tx: Tx) -> dict[str, Blob]:
    """Return every blob that a row refers to, by its key."""
    rows = tx.execute(
        select(table.c.key, table.c.size_bytes, table.c.sha256)
        .where(table.c.gone.is_(False))
        .order_by(table.c.key)
    )
    return {row.key: Blob(row.key, row.size_bytes, row.sha256) for row in rows}


def copy(source: Blobs, target: Blobs, wanted: Collection[Blob], tell: Tell) -> list[Blob]:
    """Copy blobs, each read against its digest; return those that the source does not give.

    Raises:
        Unavailable: the target refuses them.
    """
    missing: list[Blob] = []

    async def one(blob: Blob) -> None:
        if await intact(target, blob):
            return
        bytes_of = _Bytes(source, blob)
        try:
            await target.put(blob.key, bytes_of.read(), blob.size_bytes)
        except Unavailable:
            if not bytes_of.failed:
                raise
            missing.append(blob)

    anyio.run(_each, wanted, one, tell, "copying files")
    return missing


def absent(store: Blobs, wanted: Collection[Blob], tell: Tell) -> list[Blob]:
    """Return those blobs that are not there in their size; reads none.

    Raises:
        Unavailable: the store does not answer.
    """
    gone: list[Blob] = []

    async def one(blob: Blob) -> None:
        if not await store.holds(blob):
            gone.append(blob)

    anyio.run(_each, wanted, one, tell, "looking for files")
    return gone


def damaged(store: Blobs, wanted: Collection[Blob], tell: Tell) -> list[Blob]:
    """Return those blobs that are missing or not what they were; reads all of them."""
    wrong: list[Blob] = []

    async def one(blob: Blob) -> None:
        if not await intact(store, blob):
            wrong.append(blob)

    anyio.run(_each, wanted, one, tell, "reading files")
    return wrong


def keep_only(store: Blobs, keys: Collection[str]) -> None:
    """Remove every blob but these."""

    async def work() -> None:
        async for some in store.older_than(_END_OF_TIME):
            await store.remove(set(some) - set(keys))

    anyio.run(work)


async def intact(store: Blobs, blob: Blob) -> bool:
    """Tell whether a store gives a blob, byte for byte.

    Raises:
        Unavailable: the store does not answer.
    """
    if not await store.holds(blob):
        return False
    try:
        async for _ in await store.read(blob):
            pass
    except Unavailable:
        return False
    return True


class _Bytes:
    """Reads a blob, and knows afterwards whether it was the store that failed."""

    def __init__(self, store: Blobs, blob: Blob) -> None:
        self._store = store
        self._blob = blob
        self.failed = False

    async def read(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in await self._store.read(self._blob):
                yield chunk
        except Unavailable:
            self.failed = True
            raise


async def _each(
    wanted: Collection[Blob], work: Callable[[Blob], Any], tell: Tell, what: str
) -> None:
    waiting, done, size = iter(wanted), 0, 0
    total = sum(blob.size_bytes for blob in wanted)

    failures: list[DomainError] = []

    async def some() -> None:
        nonlocal done, size
        for blob in waiting:
            try:
                await work(blob)
            except DomainError as error:
                failures.append(error)
            if failures:
                return
            done, size = done + 1, size + blob.size_bytes
            tell(f"{what}: {done} of {len(wanted)}, {size} of {total} bytes")

    async with anyio.create_task_group() as group:
        for _ in range(PARALLEL):
            group.start_soon(some)
    if failures:
        raise failures[0]


def dump(blobs: Iterable[Blob], file: Path) -> None:
    """Write a list of blobs, one JSON object a line."""
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(asdict(blob)) + "\n" for blob in blobs)


def load(file: Path) -> Iterator[Blob]:
    """Yield the blobs of a list.

    Raises:
        ValueError: it is no such list.
    """
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            try:
                yield Blob(**json.loads(line))
            except TypeError as error:
                raise ValueError("no list of blobs") from error
