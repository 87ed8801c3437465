"""The child in which the file tools run: kept from call to call, replaced when it dies.

A tool that is killed, runs out of memory or turns in circles ends this child and its own call,
never process 1. Between calls the child waits on a pipe and costs nothing.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal, without its enums
import os
import resource

from intramuros.execution.sandbox.inside import frames
from intramuros.execution.sandbox.inside.loop import READ, WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from intramuros.execution.sandbox.inside.spawn import Spawner

    Fields = dict[str, bytes]

_ANSWER_FD, _CALL_FD = 3, 4
_SIGKILL = 9
_BEGUN = {"begun": b"1"}


class Hand:
    """One child that serves one call at a time.

    Args:
        tool: gets a call's fields and returns the answer's; runs in the child.
        cpu_s: processor seconds one call may take.

    Raises:
        OSError: no process could be made.
    """

    def __init__(
        self, loop: Loop, spawner: Spawner, tool: Callable[[Fields], Fields], cpu_s: int
    ) -> None:
        self._loop = loop
        self._reader = frames.Reader()
        self._outgoing = bytearray()
        self._done: Callable[[Fields], None] | None = None
        self._begun = self._timed_out = False
        self.alive = True
        call_read, self._call_write = os.pipe()
        self._answer_read, answer_write = os.pipe()
        try:
            self.pid = spawner.fork(
                lambda: _serve(tool, cpu_s), {_CALL_FD: call_read, _ANSWER_FD: answer_write}
            )
        except OSError:
            os.close(self._call_write)
            os.close(self._answer_read)
            raise
        finally:
            os.close(call_read)
            os.close(answer_write)
        for fd in (self._call_write, self._answer_read):
            os.set_blocking(fd, False)
        loop.watch(self._answer_read, READ, self._read)
        loop.on_exit(self.pid, self._exited)

    @property
    def busy(self) -> bool:
        """Whether a call is being served."""
        return self._done is not None

    def use(self, call: Fields, wall_s: float, done: Callable[[Fields], None]) -> None:
        """Serve one call.

        ``done`` gets the tool's answer; where the child died instead, ``died`` with its wait
        status, and ``begun`` if the tool had, or ``timed_out``.
        """
        self._done = done
        self._begun = False
        self._outgoing += frames.encode(call)
        self._loop.alarm(self, wall_s, self._expire)
        self._write(self._call_write)

    def kill(self) -> None:
        """End it and its call now. Idempotent."""
        if self.alive:
            os.kill(self.pid, _SIGKILL)
            self._close()

    def _write(self, fd: int) -> None:
        try:
            del self._outgoing[: os.write(fd, self._outgoing[: 1 << 18])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._outgoing.clear()  # it is dead: its exit says the rest
        if self._outgoing:
            self._loop.watch(fd, WRITE, self._write)
        else:
            self._loop.unwatch(fd)

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, 1 << 18)
        except BlockingIOError:
            return
        if not data:
            self._loop.unwatch(fd)
            return
        for answer in self._reader.feed(data):
            if answer == _BEGUN:
                self._begun = True
            else:
                self._finish(answer)

    def _finish(self, answer: Fields) -> None:
        done, self._done = self._done, None
        self._loop.disarm(self)
        if done is not None:
            done(answer)

    def _expire(self) -> None:
        self._timed_out = True
        os.kill(self.pid, _SIGKILL)

    def _exited(self, status: int) -> None:
        if not self.alive:
            return
        while self._answer_read in self._loop and self.busy:
            self._read(self._answer_read)
        self._close()
        facts = {"died": b"%d" % status}
        if self._begun:
            facts["begun"] = b"1"
        if self._timed_out:
            facts["timed_out"] = b"1"
        self._finish(facts)

    def _close(self) -> None:
        self.alive = False
        self._loop.disarm(self)
        for fd in (self._call_write, self._answer_read):
            self._loop.unwatch(fd)
            os.close(fd)


def _serve(tool: Callable[[Fields], Fields], cpu_s: int) -> int:
    """Serve calls until process 1 closes the pipe; the life of the child."""
    _signal.signal(_signal.SIGXCPU, _signal.SIG_DFL)
    reader = frames.Reader()
    while True:
        data = os.read(_CALL_FD, 1 << 18)
        if not data:
            return 0
        for call in reader.feed(data):
            used = resource.getrusage(resource.RUSAGE_SELF)
            allowed = int(used.ru_utime + used.ru_stime) + 1 + cpu_s  # whole seconds, rounded up
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))
            _write_all(frames.encode(_BEGUN))
            _write_all(frames.encode(tool(call)))


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(_ANSWER_FD, view) :]
