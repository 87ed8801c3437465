"""Byte streams in memory, for tests of what sits on a stream."""

from collections.abc import Callable

import anyio
from anyio.abc import ByteStream


class MemoryBytes(ByteStream):
    """One end of an in-memory connection that never blocks its sender."""

    def __init__(self) -> None:
        self.other: MemoryBytes = self
        self._held = b""
        self._ended = False
        self._event = anyio.Event()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not self._held:
            if self._ended:
                raise anyio.EndOfStream
            self._event = anyio.Event()
            await self._event.wait()
        data, self._held = self._held[:max_bytes], self._held[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        self.other._held += item
        self.other._event.set()

    async def send_eof(self) -> None:
        self.other._ended = True
        self.other._event.set()

    async def aclose(self) -> None:
        await self.send_eof()


def connection() -> tuple[MemoryBytes, MemoryBytes]:
    """Return the two ends of a connection."""
    near, far = MemoryBytes(), MemoryBytes()
    near.other, far.other = far, near
    return near, far


class Below:
    """What the relay needs of the stream under its TLS."""

    def __init__(self) -> None:
        self.callback: Callable[[], None] | None = None

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        self.callback = callback
