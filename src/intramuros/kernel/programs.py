"""Programs that are spoken to over their pipes, a line at a time: run, bounded, and ended whole.

What a program writes is foreign: a line has a size, and what it says of errors is cut.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import Process

from intramuros.kernel import keeper

GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
# From the end of its input to a polite signal, and from that to one that it cannot refuse.
GRACE_S: Final = 2.5
_STUBBORN_S: Final = 2 * keeper.STUBBORN_S
_KEEPER: Final = str(Path(keeper.__file__))


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
    command: Sequence[str],
    variables: Mapping[str, str],
    *,
    listen: bool = False,
    contained: bool = False,
    fds: Sequence[int] = (),
) -> AsyncIterator[Pipes]:
    """Run a program, and end it with all that it started, whichever way those went.

    Args:
        command: the program and its arguments.
        variables: its whole environment.
        listen: whether what it writes to its error output is wanted; else it is dropped.
        contained: whether it keeps its own children together and dies with us, as a sandbox does;
            else a process of ours stands between, which outlives us just so long (``keeper.py``).
        fds: descriptors that a contained one inherits, under the same numbers.

    Raises:
        OSError: it cannot be started.
    """
    async with AsyncExitStack() as stack:
        if contained:
            process = await _open(command, variables, listen=listen, pass_fds=fds)
            stack.push_async_callback(_end, process, partial(_group, process))
        else:
            # Nobody else must hold our end: it ends with us, however we end.
            ours, theirs = socket.socketpair()
            with theirs:
                stack.callback(ours.close)
                ours.setblocking(False)
                keeper = [sys.executable, "-I", "-S", _KEEPER, str(theirs.fileno()), *command]
                lifeline = (theirs.fileno(),)
                process = await _open(keeper, variables, listen=listen, pass_fds=lifeline)
            stack.push_async_callback(_end, process, partial(_kept, process, ours))
            await _started(ours, command[0])
        yield Pipes(process)


async def _open(
    command: Sequence[str],
    variables: Mapping[str, str],
    *,
    listen: bool,
    pass_fds: Sequence[int] = (),
) -> Process:
    return await anyio.open_process(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if listen else subprocess.DEVNULL,
        env=dict(variables),
        start_new_session=True,
        pass_fds=pass_fds,
    )


async def _started(lifeline: socket.socket, name: str) -> None:
    """Wait for the keeper's word.

    Raises:
        OSError: the program cannot be started.
    """
    await anyio.wait_readable(lifeline)
    said = lifeline.recv(16)
    number = int(said) if said.isdigit() else errno.EIO
    if number:
        raise OSError(number, os.strerror(number), name)


def _group(process: Process, number: signal.Signals) -> None:
    """Tell a program's process group."""
    os.killpg(process.pid, number)


def _kept(process: Process, lifeline: socket.socket, number: signal.Signals) -> None:
    """Have a keeper tell all that it keeps; what cannot be refused is the end of its lifeline."""
    if number == signal.SIGKILL:
        lifeline.close()
    elif process.returncode is None:
        os.kill(process.pid, number)


async def _next(stream: "anyio.abc.ByteReceiveStream | None") -> bytes | None:
    if stream is None:
        return None
    try:
        return await stream.receive()
    except GONE:
        return None


async def _end(process: Process, tell: Callable[[signal.Signals], None]) -> None:
    with anyio.CancelScope(shield=True):
        assert process.stdin is not None
        with suppress(*GONE):
            await process.stdin.aclose()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with anyio.move_on_after(GRACE_S):
                await process.wait()
            # Also when it is gone: it may have left others behind.
            with suppress(ProcessLookupError):
                tell(number)
        with anyio.move_on_after(_STUBBORN_S):
            await process.wait()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await process.aclose()
