"""Installs an environment's packages in a cloud session's sandbox, before its first call.

One manager after the other, in alphabetical order (R386); they are not shared with other sessions.
Meanwhile the sandbox reaches the registries and nothing else. A manager that fails does not keep
the others from it; what failed is told to the agent with the result of its first call.
"""

import hashlib
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from intramuros.execution.egress.packages import ROOT, Packages, Step, plan
from intramuros.execution.record import INWARD, Record, RecordFailed
from intramuros.execution.sandbox.base import ExecResult, Sandbox
from intramuros.kernel.telemetry import logger

log = logger("packages")

# One manager; large packages are compiled from source.
INSTALL_S: Final = 900.0
_MARK: Final = f"{ROOT}/installed"
_LOOK_S: Final = 10.0
# Of what a manager said last, enough to see why.
_TOLD_CHARS: Final = 600
_SURROUNDINGS: Final = {
    "CI": "1",
    "DEBIAN_FRONTEND": "noninteractive",
    "GOBIN": f"{ROOT}/go/bin",
    "GOFLAGS": "-modcacherw",
    "GOPATH": f"{ROOT}/go",
    # A registry that the rules keep shut stays shut: no use in asking for minutes.
    "NPM_CONFIG_FETCH_RETRY_MAXTIMEOUT": "5000",
    "NPM_CONFIG_FETCH_RETRY_MINTIMEOUT": "1000",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_RETRIES": "3",
}


class Installer:
    """Installs one session's packages, once.

    Args:
        confined: keeps the sandbox to the registries for as long as its block lasts.
    """

    def __init__(
        self,
        packages: Packages,
        record: Record,
        session_id: str,
        confined: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._packages = packages
        self._record = record
        self._session_id = session_id
        self._confined = confined

    async def install(self, sandbox: Sandbox) -> str | None:
        """Install what is not there yet; return what the agent is to know, if anything failed.

        Raises:
            SandboxError: the sandbox itself failed.
        """
        steps = plan(self._packages)
        if not steps:
            return None
        digest = _digest(self._packages)
        if await _installed(sandbox, digest):
            return None
        failures = []
        with self._confined():
            for step in steps:
                why = await self._perform(sandbox, step)
                if why is not None:
                    log.warning("packages_failed", manager=step.manager, session=self._session_id)
                    failures.append((step.manager, why))
        if failures:
            return _note(failures)
        await sandbox.exec(["sh", "-c", f"printf %s {digest} > {_MARK}"], timeout_s=_LOOK_S)
        return None

    async def _perform(self, sandbox: Sandbox, step: Step) -> str | None:
        """Run a manager; return why it failed, or None."""
        fields = {"session_id": self._session_id, "manager": step.manager, "packages": step.count}
        try:
            await self._record.write("packages.install", direction=INWARD, **fields)
        except RecordFailed:
            return "the worker could not record it"
        for command in step.commands:
            done = await _run(sandbox, command)
            if done is not None:
                return done
        return None


async def _installed(sandbox: Sandbox, digest: str) -> bool:
    look = await sandbox.exec(["cat", _MARK], timeout_s=_LOOK_S)
    return look.exit_code == 0 and look.stdout == digest.encode()


async def _run(sandbox: Sandbox, command: Sequence[str]) -> str | None:
    """Run one command; return why it failed, or None."""
    # Through a shell, so that a manager that is missing is a status like any other.
    argv = ["sh", "-c", f"mkdir -p {ROOT} && exec {shlex.join(command)}"]
    try:
        done = await sandbox.exec(argv, env=_SURROUNDINGS, timeout_s=INSTALL_S)
    except TimeoutError:
        return "it took too long"
    if done.timed_out:
        return f"it took longer than {INSTALL_S:g} s"
    return None if done.exit_code == 0 else _told(done)


def _told(done: ExecResult) -> str:
    said = (done.stderr.strip() or done.stdout.strip()).decode("utf-8", "replace")
    return f"exit status {done.exit_code}: {said[-_TOLD_CHARS:]}"


def _note(failures: Sequence[tuple[str, str]]) -> str:
    lines = [f"{manager}: {why}" for manager, why in failures]
    return "\n".join(["Packages of this environment could not be installed.", *lines])


def _digest(packages: Packages) -> str:
    text = json.dumps({name: list(packages[name]) for name in sorted(packages)})
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
