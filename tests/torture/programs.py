"""Processes of ours that are killed, frozen and started again, as a service manager would."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from intramuros.kernel.config import clean_environment
from tests.torture import skewed

ROOT = Path(__file__).parents[2]
READY_S = 60.0
STOP_S = 30.0
OPERATOR_ERROR = 2


async def came_true(condition: Callable[[], object], within_s: float) -> bool:
    """Wait until something holds; False if it did not in time."""
    with anyio.move_on_after(within_s):
        while True:
            if condition():
                return True
            await anyio.sleep(0.03)
    return False


class NeverReady(AssertionError):
    """A program did not come up."""


@dataclass
class Program:
    """One program: its command, and the process that is it now.

    Args:
        home: its own directory; the log, and the clock's file, are there.
        under: what it is started by, as ``ip netns exec NAME``.
    """

    name: str
    home: Path
    arguments: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    under: Sequence[str] = ()
    process: "subprocess.Popen[bytes] | None" = None
    down: bool = False
    crashes: list[str] = field(default_factory=list)
    """Ends that nobody asked for."""

    @property
    def log(self) -> Path:
        return self.home.parent / f"{self.name}.log"

    @property
    def clock(self) -> Path:
        return self.home.parent / f"{self.name}.clock"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, without waiting until it is ready."""
        self.home.mkdir(parents=True, exist_ok=True)
        if not self.clock.exists():
            skewed.write(self.clock, 0.0)
        tether = [sys.executable, "-m", "intramuros.cli.tether", str(os.getpid())]
        module = [sys.executable, "-m", "tests.torture.skewed", str(self.clock)]
        env = {**clean_environment(), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **self.env}
        with self.log.open("ab") as log:
            log.write(f"--- started at {time.time():.3f}\n".encode())
            self.process = subprocess.Popen(
                [*tether, *self.under, *module, *self.arguments],
                env=env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._from = self.log.stat().st_size
        self.down = False

    async def ready(self, within_s: float = READY_S) -> None:
        """Wait for its line ``ready …``.

        Raises:
            NeverReady: it ended, or took too long.
        """
        with anyio.move_on_after(within_s):
            while True:
                with self.log.open("rb") as log:
                    log.seek(self._from)
                    if any(line.startswith(b"ready ") for line in log):
                        return
                if not self.alive:
                    break
                await anyio.sleep(0.05)
        raise NeverReady(f"{self.name} did not become ready\n{self.log.read_text()[-3000:]}")

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.alive:
            self.process.send_signal(number)

    async def kill(self) -> None:
        """``kill -9``; it stays away until it is started."""
        self.down = True
        self.signal(signal.SIGKILL)
        await self._gone(10)

    async def stop(self) -> bool:
        """Ask it to end in order; False if it had to be killed."""
        self.down = True
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if await self._gone(STOP_S):
            return True
        self.signal(signal.SIGKILL)
        await self._gone(10)
        return False

    async def _gone(self, within_s: float) -> bool:
        return await came_true(lambda: not self.alive, within_s)

    async def watch(self) -> None:
        """Start it again whenever it ends by itself, until cancelled."""
        while True:
            await anyio.sleep(0.2)
            if not self.down and self.process is not None and not self.alive:
                # What it cannot cure itself, a database that is away, it says; then it is started
                # again. Anything else is a crash.
                if self.process.returncode != OPERATOR_ERROR:
                    self.crashes.append(f"{self.name} ended with status {self.process.returncode}")
                await anyio.sleep(0.5)
                if not self.down:
                    self.start()
