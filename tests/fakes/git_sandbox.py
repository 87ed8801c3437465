"""A sandbox that is none: programs run on this host, with ``/workspace`` in a temporary folder."""

import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread

from intramuros.execution.sandbox.base import WORKSPACE, ExecResult, SandboxGone
from tests.fakes.git_host import GitHost


class GitSandbox:
    """Runs what checkouts run, against a host of repositories."""

    def __init__(self, host: GitHost, folder: Path) -> None:
        self.host = host
        self.workspace = folder / "workspace"
        self.home = folder / "home"
        for made in (self.workspace, self.home):
            made.mkdir(parents=True, exist_ok=True)
        self.ran: list[list[str]] = []
        self.path = "/usr/bin:/bin"
        self.gone_at = ""
        self.slow_at = ""

    async def take(self) -> Any:
        return self

    def inside(self, place: str) -> Path:
        """Return where a path of the sandbox is."""
        return Path(self._map(place))

    def _map(self, text: str) -> str:
        if text == WORKSPACE or text.startswith(f"{WORKSPACE}/"):
            return str(self.workspace) + text.removeprefix(WORKSPACE)
        return text

    async def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
    ) -> ExecResult:
        self.ran.append(list(argv))
        if self.gone_at and self.gone_at in argv:
            self.gone_at = ""
            raise SandboxGone("over its quota")
        if self.slow_at and self.slow_at in argv:
            return ExecResult(137, b"", b"", timed_out=True)
        run = partial(
            subprocess.run,
            [self._map(word) for word in argv],
            cwd=self._map(cwd or WORKSPACE),
            env={
                "PATH": self.path,
                "HOME": str(self.home),
                **(env or {}),
                **self.host.environment(),
            },
            input=stdin,
            capture_output=True,
            check=False,
        )
        try:
            done: subprocess.CompletedProcess[bytes] = await to_thread.run_sync(run)
        except FileNotFoundError:
            return ExecResult(127, b"", b"no such program")
        return ExecResult(done.returncode, done.stdout, done.stderr)
