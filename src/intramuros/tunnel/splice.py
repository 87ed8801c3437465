"""Copy ciphertext between a dial and a stream, in both directions, without looking at it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import ByteStream

from intramuros.tunnel.link import StreamReset
from intramuros.tunnel.recorder import Recording

# After the caller hung up: how long the gateway may take to notice before its stream is reset.
LINGER_S: Final = 5.0
CHUNK_BYTES: Final = 256 * 1024


Passed = Callable[[str, int], Awaitable[None]]
"""Direction and size of bytes about to be passed on; returns when they may."""


async def _freely(_direction: str, _size: int) -> None:
    """Let everything pass at once."""


@dataclass
class Tally:
    """Bytes relayed, and why it ended."""

    up_bytes: int = 0
    down_bytes: int = 0
    ended: str = "finished"
    reset: int | None = None
    """The code by which the gateway ended the stream, if it did."""


async def splice(
    dial: ByteStream,
    stream: ByteStream,
    first: bytes,
    recording: Recording | None,
    passed: Passed = _freely,
) -> Tally:
    """Copy until both directions are done, or either side fails.

    Args:
        dial: the connection from control.
        stream: the stream to the gateway.
        first: bytes already read from the dial.
        recording: where to write a copy, or None.
        passed: told of all bytes before they go on; what it waits, the sender waits.

    Returns:
        How many bytes went each way, without ``first`` being counted twice.
    """
    copy = _Copy(dial, stream, recording, passed)
    async with anyio.create_task_group() as group:
        group.start_soon(copy.up, first, group.cancel_scope)
        await copy.down()
        group.cancel_scope.cancel()
    return copy.tally


class _Copy:
    """Both directions of one dial."""

    def __init__(
        self, dial: ByteStream, stream: ByteStream, recording: Recording | None, passed: Passed
    ) -> None:
        self._dial = dial
        self._stream = stream
        self._recording = recording
        self._passed = passed
        self.tally = Tally()

    async def up(self, data: bytes, scope: anyio.CancelScope) -> None:
        """Copy from control to the gateway, beginning with what was read."""
        tally, stream = self.tally, self._stream
        try:
            while True:
                tally.up_bytes += len(data)
                await self._passed("up", len(data))
                if self._recording is not None:
                    self._recording.up(data)
                await stream.send(data)
                data = await self._dial.receive(CHUNK_BYTES)
        except anyio.EndOfStream:
            tally.ended = "caller_closed"
            await stream.send_eof()
            await anyio.sleep(LINGER_S)
        except StreamReset as reset:
            tally.ended, tally.reset = f"gateway: {reset}", reset.code
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            tally.ended = "caller_lost"
        scope.cancel()

    async def down(self) -> None:
        """Copy from the gateway to control."""
        tally = self.tally
        try:
            while True:
                data = await self._stream.receive(CHUNK_BYTES)
                tally.down_bytes += len(data)
                await self._passed("down", len(data))
                if self._recording is not None:
                    self._recording.down(data)
                await self._dial.send(data)
        except anyio.EndOfStream:
            return
        except StreamReset as reset:
            tally.ended, tally.reset = f"gateway: {reset}", reset.code
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            tally.ended = "caller_lost"
