"""The two ends of a connection: bytes that were read ahead, deadlines, and closing politely."""

import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

CHUNK_BYTES: Final = 64 * 1024
GONE: Final = (
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    OSError,
)
"""How a peer's going away shows; a timeout and broken TLS are an OSError too."""
# How long a peer may take to notice that an answer was the last.
_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 1024 * 1024


class Held(ByteStream):
    """A stream with bytes that were read ahead; they come first."""

    def __init__(self, inner: ByteStream, held: bytes = b"") -> None:
        self._inner = inner
        self.held = held

    @property
    def inner(self) -> ByteStream:
        """Return the stream itself."""
        return self._inner

    async def receive(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        """Return the bytes read ahead, then what comes."""
        if self.held:
            data, self.held = self.held[:max_bytes], self.held[max_bytes:]
            return data
        return await self._inner.receive(max_bytes)

    async def peek(self) -> bytes:
        """Return all that was read ahead, after reading once more; it will be received again."""
        self.held += await self._inner.receive(CHUNK_BYTES)
        return self.held

    async def send(self, item: bytes) -> None:
        """Send bytes."""
        await self._inner.send(item)

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        await self._inner.send_eof()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._inner.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Return what is known of the stream beneath."""
        return self._inner.extra_attributes


async def close(stream: ByteStream) -> None:
    """Close a stream after what was sent has arrived, for a little while at most; never raises."""
    with anyio.CancelScope(shield=True):
        try:
            with anyio.move_on_after(_LINGER_S):
                await _finish(stream)
        except (*GONE, NotImplementedError):
            pass
        finally:
            await drop(stream)


async def drop(stream: ByteStream) -> None:
    """Close a stream at once; never raises."""
    with anyio.CancelScope(shield=True):
        try:
            with anyio.move_on_after(_LINGER_S):
                await stream.aclose()
        except GONE:
            return


async def reset(stream: ByteStream) -> None:
    """Break a connection off, so that what was sent does not look like all of it; never raises."""
    with suppress(LookupError, OSError):
        raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610  anyio's, not the ORM's
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await drop(stream)


async def _finish(stream: ByteStream) -> None:
    """Say that this was all, and read on, so that closing does not reset what is on its way."""
    below = stream.inner if isinstance(stream, Held) else stream
    if isinstance(below, TLSStream):
        plain, _ = await below.unwrap()
        assert isinstance(plain, ByteStream)
        below = plain
    await below.send_eof()
    left = _LINGER_BYTES
    while left > 0:
        left -= len(await below.receive(CHUNK_BYTES))
