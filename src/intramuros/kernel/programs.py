"""Programs that are spoken to over their pipes, a line at a time: run, bounded, and ended whole.

What a program writes is foreign: a line has a size, and what it says of errors is cut.
"""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import Process

GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
# From the end of its input to a polite signal, and from that to one that it cannot refuse.
GRACE_S: Final = 2.5


class TooLong(ValueError):
    """A line is longer than it may be."""


class Lines:
    """Cuts what a program writes into lines.

    Args:
        limit: of one line, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are whole now, without their ends.

        Raises:
            TooLong: one exceeds the limit, whole or not.
        """
        self._held += data
        *lines, rest = bytes(self._held).split(b"\n") if b"\n" in data else [self._held]
        if max(map(len, (*lines, rest))) > self._limit:
            raise TooLong(f"a line is longer than {self._limit} bytes")
        if lines:
            self._held = bytearray(rest)
        return [bytes(line) for line in lines]


@dataclass(frozen=True)
class Pipes:
    """A running program's ends."""

    process: Process

    async def send(self, data: bytes) -> None:
        """Write to its input.

        Raises:
            OSError, BrokenResourceError, ClosedResourceError: it is gone.
        """
        assert self.process.stdin is not None
        await self.process.stdin.send(data)

    async def receive(self) -> bytes | None:
        """Return what it wrote next; None at the end."""
        return await _next(self.process.stdout)

    async def complaints(self) -> bytes | None:
        """Return what it wrote next to its error output; None at the end, or if nobody listens."""
        return await _next(self.process.stderr)


@asynccontextmanager
async def running(
    command: Sequence[str], variables: Mapping[str, str], *, listen: bool = False
) -> AsyncIterator[Pipes]:
    """Run a program in a process group of its own, and end it with all that it started.

    Args:
        command: the program and its arguments.
        variables: its whole environment.
        listen: whether what it writes to its error output is wanted; else it is dropped.

    Raises:
        OSError: it cannot be started.
    """
    process = await anyio.open_process(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if listen else subprocess.DEVNULL,
        env=dict(variables),
        start_new_session=True,
    )
    try:
        yield Pipes(process)
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _next(stream: "anyio.abc.ByteReceiveStream | None") -> bytes | None:
    if stream is None:
        return None
    try:
        return await stream.receive()
    except GONE:
        return None


async def _end(process: Process) -> None:
    assert process.stdin is not None
    with suppress(*GONE):
        await process.stdin.aclose()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with anyio.move_on_after(GRACE_S):
            await process.wait()
        # Also when it is gone: it may have left others behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    await process.wait()
    await process.aclose()
