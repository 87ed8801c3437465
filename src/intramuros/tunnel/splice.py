"""Copy ciphertext between a dial and a stream, in both directions, without looking at it."""

from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import ByteStream

from intramuros.tunnel.link import StreamReset
from intramuros.tunnel.recorder import Recording

# After the caller hung up: how long the gateway may take to notice before its stream is reset.
LINGER_S: Final = 5.0
CHUNK_BYTES: Final = 256 * 1024


@dataclass
class Tally:
    """Bytes relayed, and why it ended."""

    up_bytes: int = 0
    down_bytes: int = 0
    ended: str = "finished"


async def splice(
    dial: ByteStream, stream: ByteStream, first: bytes, recording: Recording | None
) -> Tally:
    """Copy until both directions are done, or either side fails.

    Args:
        dial: the connection from control.
        stream: the stream to the gateway.
        first: bytes already read from the dial.
        recording: where to write a copy, or None.

    Returns:
        How many bytes went each way, without ``first`` being counted twice.
    """
    tally = Tally()
    async with anyio.create_task_group() as group:
        group.start_soon(_up, dial, stream, first, recording, tally, group.cancel_scope)
        await _down(dial, stream, recording, tally)
        group.cancel_scope.cancel()
    return tally


async def _up(
    dial: ByteStream,
    stream: ByteStream,
    data: bytes,
    recording: Recording | None,
    tally: Tally,
    scope: anyio.CancelScope,
) -> None:
    try:
        while True:
            tally.up_bytes += len(data)
            if recording is not None:
                recording.up(data)
            await stream.send(data)
            data = await dial.receive(CHUNK_BYTES)
    except anyio.EndOfStream:
        tally.ended = "caller_closed"
        await stream.send_eof()
        await anyio.sleep(LINGER_S)
    except StreamReset as reset:
        tally.ended = f"gateway: {reset}"
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        tally.ended = "caller_lost"
    scope.cancel()


async def _down(
    dial: ByteStream, stream: ByteStream, recording: Recording | None, tally: Tally
) -> None:
    try:
        while True:
            data = await stream.receive(CHUNK_BYTES)
            tally.down_bytes += len(data)
            if recording is not None:
                recording.down(data)
            await dial.send(data)
    except anyio.EndOfStream:
        return
    except StreamReset as reset:
        tally.ended = f"gateway: {reset}"
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        tally.ended = "caller_lost"
