"""A small process between a program of ours and us, so that none of its children outlives it.

Whoever leaves its parent (a second fork) comes to the nearest process that takes such children in,
and whoever leaves its process group (``setsid``) still has a parent: here both are this one. It
ends them all when the program ends, when it is told to, and when we are gone however we went, which
it sees by the end of a socket that nobody else holds. It needs no right that a user lacks.

Runs alone (``python -I -S keeper.py FD PROGRAM ARGUMENT...``) with the standard library only. It
says ``0`` on the socket once the program runs, or the number of the error. ``SIGTERM`` is passed on
to all that descends from the program. It ends as the program did.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_RESTORED: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)
STUBBORN_S: Final = 5.0
"""After which those that cannot be ended, for they became another user, are left."""
_LOOK_S: Final = 0.002
_CANNOT_START: Final = 127
_libc = ctypes.CDLL(None, use_errno=True)


def descendants(root: int) -> list[int]:
    """Return the processes below one, those that have ended but for their status left out."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                if fields[0] not in (b"Z", b"X"):
                    children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _tell_all(number: signal.Signals) -> bool:
    """Send a signal to all below us; False when there was nobody who could be told."""
    told = False
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            told = True
    return told


def end_all() -> None:
    """Kill all below us; what forks meanwhile is met again, stopped, and forks no more."""
    until = time.monotonic() + STUBBORN_S
    while time.monotonic() < until:
        stopped: set[int] = set()
        while fresh := set(descendants(os.getpid())) - stopped:
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGSTOP)
            stopped |= fresh
        _tell_all(signal.SIGKILL)
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                return
        select.select([], [], [], _LOOK_S)


def _start(command: list[str]) -> tuple[int, int]:
    """Start the program; return its pid and 0, or what is wrong."""
    keeper = os.getpid()
    said, saying = os.pipe()
    pid = os.fork()
    if pid:
        os.close(saying)
        with open(said, "rb") as file:
            return pid, int(file.read() or b"0")
    try:
        signal.set_wakeup_fd(-1)
        for number in _RESTORED:
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(_CANNOT_START)
        os.execvp(command[0], command)  # noqa: S606 - the whole point; no shell
    except OSError as error:
        os.write(saying, b"%d" % (error.errno or 1))
    finally:
        os._exit(_CANNOT_START)


def _let_go() -> None:
    """Hold none of the program's pipes: who reads them must see their end."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def _status_of(pid: int) -> int | None:
    """Take in whoever has ended; return the program's status once it is among them."""
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if ended == pid:
            return status
        if ended == 0:
            return None


def _end_as(status: int) -> NoReturn:
    """End as the program did, so that whoever waits for us learns how that was."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _on(number: signal.Signals, handle: Callable[[], object]) -> None:
    signal.signal(number, lambda *_: handle())


def main(lifeline: socket.socket, command: list[str]) -> NoReturn:
    """Start the program and keep its children, until it ends or whoever started us is gone."""
    lifeline.set_inheritable(False)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _on(signal.SIGTERM, lambda: _tell_all(signal.SIGTERM))
    _on(signal.SIGCHLD, lambda: None)
    _on(signal.SIGINT, lambda: None)
    woken, waking = os.pipe()
    for end in (woken, waking):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    pid, problem = _start(command)
    _let_go()
    with contextlib.suppress(OSError):
        lifeline.send(b"%d" % problem)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(woken, select.POLLIN)
    status = None
    while status is None:
        ready = [fd for fd, _ in poll.poll()]
        if lifeline.fileno() in ready:
            end_all()
            _end_as(signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        status = _status_of(pid)
    end_all()
    _end_as(status)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
