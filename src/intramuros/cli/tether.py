"""Run a program that dies with its parent: ``python -m intramuros.cli.tether PID PROGRAM…``.

Linux sends the signal when the parent ends for whatever reason, ``kill -9`` included; it survives
``execve``. Only the standard library: this runs before every child.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Tie this process to its parent, then become the program.

    Args:
        argv: the parent's process id, then the program and its arguments.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    # The parent may have gone before the line above took effect.
    if os.getppid() != int(argv[0]):
        raise SystemExit(1)
    os.execvp(argv[1], argv[1:])  # noqa: S606  becoming the program is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
