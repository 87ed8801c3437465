"""A child of process 1 that reads or writes one long stream, which the host pulls or pushes.

The host asks for each piece, so nothing piles up in process 1. When the child is done it leaves
facts, or the reason why it failed, in a pipe of their own.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal, without its enums
import fcntl
import os

from intramuros.execution.sandbox.inside import frames
from intramuros.execution.sandbox.inside.loop import READ, WRITE, Loop, exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from intramuros.execution.sandbox.inside.spawn import Spawner

    Fields = dict[str, bytes]
    Answer = Callable[[Fields], None]
    Work = Callable[[int], Fields]

PIECE = 1024 * 1024
_STREAM_FD, _FACTS_FD = 3, 4
_MAX_FACTS = 256 * 1024
_SIGKILL = 9


class Flow:
    """One stream and the child at its other end.

    Args:
        work: runs in the child with its end of the stream; returns facts.
        outward: whether the child writes.

    Raises:
        OSError: no process could be made.
    """

    def __init__(self, loop: Loop, spawner: Spawner, work: Work, *, outward: bool) -> None:
        self._loop = loop
        self._data = bytearray()
        self._facts = bytearray()
        self._answer: Answer | None = None
        self._status: int | None = None
        self._closing = False
        stream_read, stream_write = os.pipe()
        self._facts_read, facts_write = os.pipe()
        theirs = stream_write if outward else stream_read
        self._stream = stream_read if outward else stream_write
        self._open = True
        try:
            fcntl.fcntl(self._stream, fcntl.F_SETPIPE_SZ, PIECE)
        except OSError:
            pass  # slower, no less right
        try:
            self.pid = spawner.fork(
                lambda: _run(work), {_STREAM_FD: theirs, _FACTS_FD: facts_write}
            )
        except OSError:
            os.close(self._stream)
            os.close(self._facts_read)
            raise
        finally:
            os.close(theirs)
            os.close(facts_write)
        for fd in (self._stream, self._facts_read):
            os.set_blocking(fd, False)
        loop.watch(self._facts_read, READ, self._read_facts)
        loop.on_exit(self.pid, self._exited)

    def pull(self, answer: Answer) -> None:
        """Answer with the next ``data``, or after the last with the facts."""
        self._answer = answer
        self._serve()

    def push(self, data: bytes, last: bool, answer: Answer) -> None:
        """Pass ``data`` on, and answer when it is passed on, or after the last with the facts."""
        self._answer = answer
        self._data += data
        self._closing = last
        if self._open:
            self._loop.watch(self._stream, WRITE, self._write)
        else:
            self._maybe_end()

    def kill(self) -> None:
        """End the child now. Idempotent."""
        if self._status is None:
            try:
                os.kill(self.pid, _SIGKILL)
            except ProcessLookupError:
                pass
        self._shut()

    def _read(self, fd: int) -> None:
        try:
            chunk = os.read(fd, PIECE - len(self._data))
        except BlockingIOError:
            return
        self._data += chunk
        if not chunk:
            self._shut()
        self._serve()

    def _serve(self) -> None:
        """Answer if there is a piece, and have the next one read while the host has this one."""
        if self._data and (len(self._data) >= PIECE or not self._open):
            if self._answer is not None:
                data = bytes(self._data)
                self._data.clear()
                self._give({"data": data})
        elif not self._open:
            self._maybe_end()
        if self._open and len(self._data) < PIECE:
            self._loop.watch(self._stream, READ, self._read)
        else:
            self._loop.unwatch(self._stream)

    def _write(self, fd: int) -> None:
        try:
            del self._data[: os.write(fd, memoryview(self._data)[: 1 << 18])]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._data.clear()
            self._closing = True
        if self._data:
            return
        self._loop.unwatch(fd)
        if self._closing:
            self._shut()
            self._maybe_end()
        else:
            self._give({})

    def _read_facts(self, fd: int) -> None:
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            return
        if not chunk or len(self._facts) > _MAX_FACTS:
            self._loop.unwatch(fd)
            return
        self._facts += chunk

    def _exited(self, status: int) -> None:
        self._status = status
        while self._facts_read in self._loop:
            before = len(self._facts)
            self._read_facts(self._facts_read)
            if len(self._facts) == before:
                break
        self._loop.unwatch(self._facts_read)
        os.close(self._facts_read)
        self._maybe_end()

    def _maybe_end(self) -> None:
        """Answer with the facts once the stream is at its end and the child is gone."""
        if self._open or self._status is None or (self._data and not self._closing):
            return
        try:
            facts = frames.Reader().feed(bytes(self._facts))
        except frames.FrameError:
            facts = []
        died = f"the process ended early ({exit_code(self._status)}; out of memory or disk?)"
        self._give({**(facts[0] if facts else {"error": died.encode()}), "end": b"1"})

    def _give(self, fields: Fields) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(fields)

    def _shut(self) -> None:
        if self._open:
            self._open = False
            self._loop.unwatch(self._stream)
            os.close(self._stream)


def _run(work: Work) -> int:
    """Do the work and leave its facts; the life of the child."""
    # Too large a file is an error to be told, not a death.
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_IGN)
    facts = work(_STREAM_FD)
    os.close(_STREAM_FD)
    view = memoryview(frames.encode(facts))
    while view:
        view = view[os.write(_FACTS_FD, view) :]
    return 0
