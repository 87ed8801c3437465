"""Starts the real server over a data directory and waits until it says that it serves."""

import json
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from intramuros.kernel.config import environment
from tests.engines import elsewhere

ROOT = Path(__file__).parents[2]
START_S = 120
STOP_S = 60


@dataclass(frozen=True)
class Server:
    base_url: str
    api_key: str
    data_dir: Path
    process: "subprocess.Popen[str]"

    @property
    def log(self) -> str:
        return log_file(self.data_dir).read_text()


def log_file(data_dir: Path) -> Path:
    return data_dir / "stderr.log"


@contextmanager
def running(
    data_dir: Path, *, module: str = "tests.wire.run_server", **settings: object
) -> Iterator[Server]:
    """Run a server until the block ends. Settings: ``ServerSettings`` and ``log_level``.

    Args:
        module: what starts the server.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    flags = {"data_dir": str(data_dir), "port": 0, **elsewhere(data_dir), **settings}
    env = {**environment(), "PYTHONPATH": str(ROOT / "src")}
    with (
        log_file(data_dir).open("a") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(flags)],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            line = _ready_line(process, data_dir)
            api_key = str(settings.get("bootstrap_api_key") or "")
            api_key = api_key or (data_dir / "api-key").read_text().strip()
            yield Server(line.removeprefix("ready ").strip(), api_key, data_dir, process)
        finally:
            _stop(process)
        # Scripts read standard output: it holds the one line and nothing else.
        assert process.stdout is not None
        assert process.stdout.read() == ""


@contextmanager
def both(directory: Path, **shared: object) -> Iterator[tuple[Server, Server]]:
    """Run two servers with one database and one master key; settings as for :func:`running`."""
    first, second = directory / "first", directory / "second"
    with running(first, **shared) as one:
        second.mkdir()
        shutil.copy(first / "master-key", second / "master-key")
        with running(second, **shared) as two:
            yield one, two


def _ready_line(process: "subprocess.Popen[str]", data_dir: Path) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_S)
    line = process.stdout.readline() if readable else ""
    assert line.startswith("ready http://"), (
        f"the server did not start: {line!r}\n{log_file(data_dir).read_text()}"
    )
    return line


def _stop(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError("the server did not stop within its drain time") from None
