"""Between a sandbox and the store: seal and write, read and open, a few pieces at a time."""

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Final, TypeVar

import anyio
from anyio import to_thread

from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.snapshots.sealed import Opener, Sealer
from intramuros.execution.snapshots.shelf import Shelf

T = TypeVar("T")

_AHEAD: Final = 2
"""Pieces of about a MiB that wait between the two sides."""


async def store(
    shelf: Shelf, name: str, key: bytes, chunks: AsyncGenerator[bytes], limit_bytes: int
) -> int:
    """Seal a stream and store it; returns its stored size. Nothing stays if it fails.

    Raises:
        SandboxError: the stream broke off, or is larger than ``limit_bytes``.
        ShelfError: the store refused.
    """
    writer = await to_thread.run_sync(shelf.writer, name)
    sealer = Sealer(key)

    def write(data: bytes) -> int:
        sealed = sealer.feed(data)
        writer.write(sealed)
        return len(sealed)

    def finish() -> int:
        sealed = sealer.finish()
        writer.write(sealed)
        writer.commit()
        return len(sealed)

    async def take(arriving: AsyncIterable[bytes]) -> int:
        stored = 0
        async for data in arriving:
            stored += await to_thread.run_sync(write, data)
            if stored > limit_bytes:
                raise SandboxError(f"it is larger than {limit_bytes} bytes")
        return stored

    try:
        stored = await ahead(chunks, take)
        return stored + await to_thread.run_sync(finish)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(writer.abort)
        raise


async def fetch(shelf: Shelf, name: str, key: bytes) -> AsyncGenerator[bytes]:
    """Yield a stored stream, each piece once it is known to be right.

    Raises:
        Damaged: it is not what was sealed.
        ShelfError: the store does not give it.
    """
    opener = Opener(key)
    stored = shelf.reader(name)

    def step() -> bytes | None:
        return _next(stored, opener.feed)

    while (data := await to_thread.run_sync(step)) is not None:
        if data:
            yield data
    yield await to_thread.run_sync(opener.finish)


def _next(stored: Iterator[bytes], opened: Callable[[bytes], bytes]) -> bytes | None:
    chunk = next(stored, None)
    return None if chunk is None else opened(chunk)


async def ahead(
    chunks: AsyncGenerator[bytes], use: Callable[[AsyncIterable[bytes]], Awaitable[T]]
) -> T:
    """Return what ``use`` makes of the chunks, of which the next are made meanwhile.

    Raises:
        Exception: the first that either side raised. ``use`` never sees the end of a stream that
            broke off: it is cancelled.
    """
    send, receive = anyio.create_memory_object_stream[bytes](_AHEAD)
    results: list[T] = []

    async def pump() -> None:
        async with aclosing(chunks) as made:
            async for chunk in made:
                await send.send(chunk)
        send.close()

    with send, receive:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(pump)
                results.append(await use(receive))
                group.cancel_scope.cancel()
        except ExceptionGroup as several:
            first: BaseException = several
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None
    return results[0]
