"""A poll loop for process 1: descriptors, deadlines and children, nothing else.

``asyncio``, ``selectors`` and ``signal`` would cost every sandbox some ten milliseconds and
several megabytes; this is what is needed of them.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal, without its enums
import os
import select
from time import monotonic

_MAX_WAIT_MS = 3_600_000
READ = select.POLLIN
WRITE = select.POLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """Calls handlers when descriptors are ready, deadlines pass or children end."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: dict[object, tuple[float, Callable[[], None]]] = {}
        self._children: dict[int, Callable[[int], None]] = {}
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        _signal.signal(_signal.SIGCHLD, _ignore)
        _signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self.watch(self._wake_read, READ, self._woken)

    def close(self) -> None:
        """Close what the loop itself opened; its watchers close their own."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call ``handler(fd)`` whenever ``fd`` is ready for ``events``, or broken."""
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; harmless when it is not watched."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def __contains__(self, fd: int) -> bool:
        """Return whether ``fd`` is watched."""
        return fd in self._handlers

    def alarm(self, key: object, after_s: float, handler: Callable[[], None]) -> None:
        """Call ``handler`` once after ``after_s`` seconds, unless :meth:`disarm` comes first."""
        self._timers[key] = (monotonic() + after_s, handler)

    def disarm(self, key: object) -> None:
        """Drop the alarm of ``key``, if any."""
        self._timers.pop(key, None)

    def on_exit(self, pid: int, handler: Callable[[int], None]) -> None:
        """Call ``handler(wait_status)`` once the child ends."""
        self._children[pid] = handler

    def once(self) -> None:
        """Wait for something to happen and handle all that did."""
        wait_ms = None
        if self._timers:
            nearest = min(at for at, _ in self._timers.values())
            wait_ms = min(max(0, int((nearest - monotonic()) * 1000) + 1), _MAX_WAIT_MS)
        for fd, _ in self._poll.poll(wait_ms):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(fd)
        now = monotonic()
        for key, (at, expired) in list(self._timers.items()):
            if at <= now and self._timers.pop(key, None) is not None:
                expired()

    def _woken(self, fd: int) -> None:
        try:
            os.read(fd, 4096)
        except BlockingIOError:
            pass
        self.reap()

    def reap(self) -> None:
        """Collect every child that ended, orphans we inherited included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            handler = self._children.pop(pid, None)
            if handler is not None:
                handler(status)


def _ignore(_number: int, _frame: object) -> None:
    """Wake the poll only; the work happens in the loop."""


def exit_code(status: int) -> int:
    """Return the exit code of a wait status; 128 plus the signal when one ended it."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)
