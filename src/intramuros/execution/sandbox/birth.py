"""What a sandbox's first process is started with, and what becomes of it all when that fails.

Until a :class:`~intramuros.execution.sandbox.live.LiveSandbox` owns them, a process and the
descriptors for it belong to nobody who could give them back: here they do.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.sandbox.channel import Channel


@dataclass
class Ends:
    """Both ends of what leads to a first process."""

    channel: Channel
    """The host's; closed unless the sandbox comes up."""
    theirs: socket.socket
    errors: int
    """A file in memory that takes what is said of errors until process 1 serves."""
    sent: list[int]
    """Descriptors to send along: process 1's channel, ``errors``, the null device, and files in
    memory, in the order of their contents."""

    def handed(self) -> None:
        """They have process 1's end: ours must see the end of the stream when that is gone."""
        self.theirs.close()


@contextmanager
def ends(*files: bytes) -> Iterator[Ends]:
    """Make the ends, and close those that are not needed any more; all if the block raises.

    Args:
        files: contents of files in memory; one each per launch, for its offset is shared.

    Raises:
        SandboxError: this process may hold no more descriptors.
    """
    with ExitStack() as failed, ExitStack() as always:
        try:
            made = _make(files, failed, always)
        except OSError as error:
            raise SandboxError(f"cannot start a sandbox ({error.strerror})") from error
        yield made
        failed.pop_all()


def _make(files: tuple[bytes, ...], failed: ExitStack, always: ExitStack) -> Ends:
    ours, theirs = socket.socketpair()
    always.callback(theirs.close)
    failed.callback(ours.close)
    channel = Channel(ours)
    failed.callback(channel.close)
    errors = _file("errors", always)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    always.callback(os.close, null)
    sent = [theirs.fileno(), errors, null]
    for content in files:
        fd = _file("sent", always)
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        sent.append(fd)
    return Ends(channel, theirs, errors, sent)


def _file(name: str, stack: ExitStack) -> int:
    fd = os.memfd_create(name)
    stack.callback(os.close, fd)
    return fd


@contextmanager
def unborn(pidfd: int) -> Iterator[None]:
    """Have a process end, and its descriptor closed, if the block raises before it is owned."""
    try:
        yield
    except BaseException:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        raise
