import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from intramuros.cli import tether
from tests.unit.cli.conftest import child_environment

PARENT = """
import os, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-m", "intramuros.cli.tether", str(os.getpid()), "sleep", "60"]
)
print(child.pid, flush=True)
child.wait()
"""


def is_sleep(pid: int) -> bool:
    try:
        return b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 60
    while not condition():
        assert monotonic() < deadline
        Event().wait(0.02)


def test_a_child_dies_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], env=child_environment(), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        until(lambda: is_sleep(child))
        parent.send_signal(signal.SIGKILL)
        until(lambda: not is_sleep(child))


def test_without_its_parent_it_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "intramuros.cli.tether", "1", "echo", "started"],
        env=child_environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == b""


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A search path with places closed to this user would give another error.
    monkeypatch.setenv("PATH", str(tmp_path))
    child = os.fork()
    if child == 0:
        try:
            tether.main([str(os.getppid()), "no-such-program"])
        except FileNotFoundError:
            os._exit(7)
        finally:  # whatever else is raised may not leave a second pytest behind
            os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
