"""A real server in a process of its own, for commands that ask one; and a way to run commands."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from intramuros.cli.failures import guarded
from intramuros.cli.main import app
from intramuros.kernel import telemetry

SOURCE = Path(__file__).parents[3] / "src"


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]


def child_environment(**extra: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}  # noqa: TID251  tests start processes
    return {**kept, "PYTHONPATH": str(SOURCE), **extra}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``intramuros ARGUMENTS…`` inside this process, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    # Loggers keep the standard error they were set up with, and this one ends with the test.
    monkeypatch.setattr(telemetry, "configure", lambda **_: None)

    def run_command(*arguments: object, **env: str) -> Ran:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["intramuros", *map(str, arguments)])
            for name, value in env.items():
                patch.setenv(name, value)
            status = guarded(app)
        out, err = capfd.readouterr()
        return Ran(status, out, err)

    return run_command


@pytest.fixture
def run_process(tmp_path: Path) -> Run:
    """Run ``intramuros ARGUMENTS…`` as a process, in a directory of its own."""

    def run_command(*arguments: object, **env: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "intramuros.cli.main", *map(str, arguments)],
            env=child_environment(**env),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run_command


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    data_dir: Path

    @property
    def options(self) -> tuple[str, ...]:
        """Command-line options that address it."""
        return ("--url", self.url, "--api-key-file", str(self.data_dir / "api-key"))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over an empty data directory."""
    data_dir = tmp_path_factory.mktemp("served")
    arguments = ["server", "--data-dir", str(data_dir), "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "intramuros.cli.main", *arguments],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready "), line
        yield Served(line.split()[1], data_dir)
        process.terminate()
