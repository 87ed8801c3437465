"""The worker as operators run it, and what is left of it on the machine."""

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import anyio
from anyio import to_thread

from intramuros.kernel.config import clean_environment
from tests.drives import Workspace

ROOT = Path(__file__).parents[2]
# What a test that fails shows of each of a worker's records.
TOLD_LINES = 40


class WorkerProcess:
    """The command as operators run it, over one state directory."""

    def __init__(
        self, base_url: str, environment_id: str, key_text: str, folder: Path, *flags: str
    ) -> None:
        self._environment_id = environment_id
        self.state = folder / "state"
        self.log = folder / "log"
        self.variables: dict[str, str] = {}
        """Further ones of its environment."""
        key = folder / "key"
        key.write_text(key_text)
        key.chmod(0o600)
        self._command = [
            *(sys.executable, "-m", "intramuros.cli.main", "worker"),
            *("--base-url", base_url, "--environment-id", environment_id),
            *("--environment-key-file", str(key), "--state-dir", self.state.name),
            *("--max-idle-s", "0.5"),
            *flags,
        ]

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        environment = {**clean_environment(), "PYTHONPATH": str(ROOT / "src"), **self.variables}
        # Its state lies where it was started, as operators write it.
        return subprocess.Popen(
            self._command,
            env=environment,
            cwd=self.state.parent,
            stdout=subprocess.PIPE,
            stderr=log,
        )

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[subprocess.Popen[bytes]]:
        with self.log.open("ab") as log, self._start(log) as process:
            try:
                assert process.stdout is not None
                # On a thread: the control plane that it polls lives on this loop.
                with anyio.fail_after(60):
                    line = await to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
                assert line == f"ready worker {self._environment_id}\n".encode(), (
                    self.log.read_text()
                )
                yield process
            except Exception as error:
                error.add_note(self.told())
                raise
            finally:
                process.kill()

    def told(self) -> str:
        """Return what the worker said last, on stderr and in its audit file."""
        parts = []
        for path in (self.log, self.state / "audit.jsonl"):
            with contextlib.suppress(OSError):
                lines = path.read_text(errors="replace").splitlines()[-TOLD_LINES:]
                parts.append("\n".join([f"--- {path}", *lines]))
        return "\n".join(parts)

    def workspace(self, name: str, session_id: str = "sesn_1") -> Workspace:
        return Workspace(self.state / "sandboxes" / "workspaces", session_id, name)


def commands_with(marker: str) -> list[str]:
    """Return the command lines on this machine that hold the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                if marker in line:
                    found.append(line)
    return found
