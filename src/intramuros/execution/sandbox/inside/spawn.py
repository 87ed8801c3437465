"""Start children of process 1 so that they hold nothing of its."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal, without its enums
import fcntl
import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Python ignores SIGPIPE and SIGXFSZ, and whoever started the worker may ignore others (nohup does):
# a program must meet every signal as anywhere else.
_RESET = tuple(_signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP})
_TIOCSCTTY = 0x540E


class Spawner:
    """Forks with a clean slate: signals at default, a session of its own, three descriptors.

    Args:
        open_files: RLIMIT_NOFILE inside; the upper bound of what must be closed.
        set_dumpable: opens or closes the calling process to others of its uid.
    """

    def __init__(self, open_files: int, set_dumpable: Callable[[bool], None]) -> None:
        self._open_files = open_files
        self._set_dumpable = set_dumpable

    def spawn(
        self,
        argv: list[str],
        *,
        cwd: str,
        env: dict[bytes, bytes],
        fds: dict[int, int],
        terminal: bool = False,
    ) -> int:
        """Run a program and return its pid; ``fds`` maps the child's numbers to ours.

        With ``terminal`` its standard input is one, and becomes the one it is controlled by.

        A program that cannot be executed ends with status 127 and its reason on descriptor 2.

        Raises:
            OSError: no process could be made, for instance because the pids limit is reached.
        """

        def run() -> int:
            try:
                # Kernel memory that no quota counts; and by this limit, which cannot be raised
                # again, the host tells programs from our own processes (sandbox/processes.py).
                try:
                    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
                except ValueError:
                    pass  # gVisor has its own queues, in memory that is counted, and no such limit
                if terminal:
                    fcntl.ioctl(0, _TIOCSCTTY, 0)
                os.chdir(cwd)
                os.execvpe(argv[0], argv, env)  # noqa: S606 - no shell is wanted
            except OSError as error:
                os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
            return 127

        return self.fork(run, fds)

    def fork(self, run: Callable[[], int], fds: dict[int, int]) -> int:
        """Run ``run()`` in a child, end it with the returned status, and return its pid."""
        pid = os.fork()
        if pid:
            return pid
        status = 126
        try:
            os.setsid()
            _signal.set_wakeup_fd(-1)
            for number in _RESET:
                _signal.signal(number, _signal.SIG_DFL)
            self._arrange(fds)
            self._expose_to_oom()
            status = run()
        finally:
            os._exit(status)

    def _expose_to_oom(self) -> None:
        """Make this child, not process 1, the kernel's choice when memory runs out.

        The file is root's while we are closed to others, so open up for a moment.
        """
        self._set_dumpable(True)
        try:
            with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
                file.write(b"500")
        except OSError:
            pass  # the limit holds anyway; only its victim may then be process 1
        self._set_dumpable(False)

    def _arrange(self, fds: dict[int, int]) -> None:
        """Make ``fds`` the only open descriptors, filling 0 to 2 with /dev/null."""
        null = os.open("/dev/null", os.O_RDWR)
        wanted = {0: null, 1: null, 2: null, **fds}
        # Copies above everything first, so that no target overwrites a source still needed.
        top = max(*wanted, *wanted.values()) + 1
        copies = {}
        for target, source in wanted.items():
            copies[target] = fcntl.fcntl(source, fcntl.F_DUPFD, top)
        for target, copy in copies.items():
            os.dup2(copy, target, inheritable=True)
        at = 0
        for target in sorted(wanted):
            if target > at:  # an empty range would close all: CPython passes its end minus one
                os.closerange(at, target)
            at = target + 1
        os.closerange(at, self._open_files)
