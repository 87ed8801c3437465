"""An environment's packages, installed in a cloud session's sandbox before its first call.

One manager after the other, in alphabetical order (R386), below one directory of the workspace, so
that they last as long as the session does; they are not shared with other sessions. Meanwhile the
sandbox reaches the registries and nothing else. A manager that fails does not keep the others from
it; what failed is recorded, and told to the agent with the result of its first call.
"""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from intramuros.execution.record import INWARD, Record, RecordFailed
from intramuros.execution.sandbox.base import WORKSPACE, ExecResult, Sandbox
from intramuros.kernel.telemetry import logger

log = logger("packages")

ORDER: Final = ("apt", "cargo", "gem", "go", "npm", "pip")
ROOT: Final = f"{WORKSPACE}/.intramuros/packages"
# One manager; large ones are compiled from source.
INSTALL_S: Final = 900.0
MAX_PACKAGES: Final = 1000
_MAX_CHARS: Final = 255
_MARK: Final = f"{ROOT}/installed"
_LOOK_S: Final = 10.0
# Of what a manager said last, enough to see why.
_TOLD_CHARS: Final = 600

Packages = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Step:
    """What one manager is asked to do: its commands, one after the other."""

    manager: str
    count: int
    """How many packages."""
    commands: tuple[tuple[str, ...], ...]


def read_packages(raw: object) -> dict[str, tuple[str, ...]]:
    """Read an environment's ``packages``, which is foreign: managers with something to install.

    What could be taken for an option of its manager, or is no one word, is left out.
    """
    if not isinstance(raw, Mapping):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for manager in ORDER:
        listed: Any = raw.get(manager)
        names = listed[:MAX_PACKAGES] if isinstance(listed, list) else []
        kept = tuple(name for name in names if _is_name(name))
        if len(kept) < len(names):
            log.warning("packages_left_out", manager=manager, count=len(names) - len(kept))
        if kept:
            found[manager] = kept
    return found


def plan(packages: Packages) -> tuple[Step, ...]:
    """Return what is to be done, in the order of the contract (R386)."""
    return tuple(
        Step(manager, len(packages[manager]), _COMMANDS[manager](tuple(packages[manager])))
        for manager in ORDER
        if packages.get(manager)
    )


def variables(packages: Packages) -> dict[str, str]:
    """Return the variables by which programs find what is installed."""
    places = {
        "gem": {"GEM_PATH": f"{ROOT}/gem"},
        "npm": {"NODE_PATH": f"{ROOT}/npm/lib/node_modules"},
        "pip": {"PYTHONPATH": f"{ROOT}/pip"},
    }
    return {k: v for manager in packages for k, v in places.get(manager, {}).items()}


def search_path(packages: Packages) -> tuple[str, ...]:
    """Return the directories of the programs that are installed."""
    return tuple(f"{ROOT}/{manager}/bin" for manager in ORDER[1:] if packages.get(manager))


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


def _is_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and 0 < len(name) <= _MAX_CHARS
        and not name.startswith("-")
        and name.isprintable()
        and " " not in name
    )


def _go(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    # One at a time: several must be of one module. A version is not optional outside of one.
    full = (name if "@" in name else f"{name}@latest" for name in names)
    return tuple(("go", "install", name) for name in full)


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
_COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], tuple[tuple[str, ...], ...]]]] = {
    "apt": lambda names: (
        ("apt-get", "update", "-q"),
        ("apt-get", "install", "-qy", "--no-install-recommends", "--", *names),
    ),
    "cargo": lambda names: (("cargo", "install", "--root", f"{ROOT}/cargo", *names),),
    "gem": lambda names: (
        (
            *("gem", "install", "--no-document", "--install-dir", f"{ROOT}/gem"),
            *("--bindir", f"{ROOT}/gem/bin", *names),
        ),
    ),
    "go": _go,
    "npm": lambda names: (
        ("npm", "install", "--global", "--prefix", f"{ROOT}/npm", "--no-audit", "--", *names),
    ),
    "pip": lambda names: (
        ("python3", "-m", "pip", "install", "--quiet", "--target", f"{ROOT}/pip", "--", *names),
    ),
}
