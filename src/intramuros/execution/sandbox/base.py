"""The sandbox contract every provider keeps.

Errors::

    SandboxError               a sandbox could not do what was asked
    ├── SandboxGone            its processes are dead or its channel broke; create it again
    ├── SandboxPaused          it is frozen; resume it first
    └── SandboxBusy            an id that is already live here; destroy it first
    OperatorError
    └── SandboxUnavailable     this host cannot run this provider; carries the one-line fix

A tool that fails is not an error here: it is a :class:`ToolOutcome` with ``is_error`` set, because
the model is meant to read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from intramuros.execution.tools.outcomes import ToolOutcome
from intramuros.kernel.errors import DomainError, Kind, OperatorError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

WORKSPACE = "/workspace"
RESOLVER = "198.18.0.1"
"""Name server of a sandbox with egress, an address that is set aside for tests (RFC 2544)."""


class SandboxError(DomainError):
    """A sandbox could not do what was asked: the message says which step failed."""

    kind = Kind.UNAVAILABLE


class SandboxGone(SandboxError):
    """The sandbox's processes are dead: create it again; its workspace is kept."""


class SandboxPaused(SandboxError):
    """The sandbox is paused: resume it first."""

    kind = Kind.CONFLICT


class SandboxBusy(SandboxError):
    """A sandbox with this id is live: destroy it first."""

    kind = Kind.CONFLICT


class SandboxUnavailable(OperatorError):
    """This host cannot run this provider: do what the fix says."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A host file or directory shown inside.

    ``source`` is a host path, ``target`` an absolute path inside. The file tools may reach it, and
    refuse to write below it when it is read-only. ``owned`` means that it belongs to this sandbox
    alone: its user gets it, and what it writes there counts against the disk limit.
    """

    source: Path
    target: str
    read_only: bool = True
    owned: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use; everything it runs shares it."""

    cpus: float = 1.0
    memory_bytes: int = 1 * GIB
    pids: int = 256
    disk_bytes: int = 4 * GIB
    """Of the workspace and owned mounts; a call is refused once it is over."""
    tmp_bytes: int = 256 * MIB
    """Of each tmpfs (/tmp, the home directory, /dev/shm); counts as memory too."""
    disk_files: int = 500_000
    """Files and directories in the same places; less where the disk is small."""
    open_files: int = 1024
    """Per process."""
    wall_clock_s: float = 24 * 3600.0
    """Age at which the sandbox refuses further calls."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox is made of; the same for every provider."""

    rootfs: Path | None = None
    """Directory that becomes the root, read-only; None shows the host's /usr."""
    devices: tuple[Path, ...] = ()
    """Device files of the host shown at the same place; a provider without ``gpu`` refuses them."""
    limits: Limits = field(default_factory=Limits)
    mounts: tuple[Mount, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Placeholders only: a credential never enters a sandbox."""
    path: tuple[str, ...] = ()
    """Directories inside where programs are looked for before the image's own."""
    egress: Literal["none", "names"] = "none"
    """``names`` gives it a resolver at :data:`RESOLVER`; still nothing of the host's network shows,
    and whoever makes the sandbox must serve what it connects to (:meth:`Sandbox.network`)."""
    trust: Path | None = None
    """Host file with the PEM certificates that programs inside trust, instead of the system's."""
    user: str = "agent"


@dataclass(frozen=True, slots=True)
class ExecResult:
    """Result of one program run outside the persistent shell."""

    exit_code: int
    """The program's exit status; 128 plus the signal number when a signal ended it."""
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """True when either stream was longer than the limit; its first bytes are kept."""
    timed_out: bool = False


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a probe learned: ``fix`` is one line, and never empty unless the level is ok."""

    level: Level
    what: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can honestly do on this host."""

    isolation: Literal["none", "namespaces", "user-kernel", "container", "vm"]
    pause: Literal["none", "signal", "freezer"]
    memory_limit: Literal["none", "per-process", "cgroup"]
    cpu_limit: bool
    disk_quota: Literal["none", "watched", "hard"]
    distinct_uids: bool
    """True when each live sandbox has a host uid of its own."""
    egress: bool = False
    """Whether its sandboxes can have a network of which every connection is caught."""
    snapshots: bool = False
    gpu: bool = False
    ssh: bool = False


class Sandbox(Protocol):
    """One live sandbox. Calls may overlap; shell commands run one after another."""

    @property
    def sandbox_id(self) -> str:
        """The id it was created with."""
        ...

    @property
    def alive(self) -> bool:
        """False once its process 1 is gone."""
        ...

    def network(self) -> int:
        """Return a descriptor of its network namespace, which the caller closes.

        Raises:
            SandboxError: it has none of its own.
            SandboxGone: its processes are dead.
        """
        ...

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        """Run one tool of the agent toolset; cancelling the call stops what it runs inside.

        Args:
            tool: bash, read, write, edit, glob or grep.
            arguments: the model's input, validated here (contract 23.2).

        Returns:
            What the model is to read, errors of the tool included.

        Raises:
            SandboxGone, SandboxPaused: nothing was run, or its outcome is unknown.
        """
        ...

    async def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
    ) -> ExecResult:
        """Run one program outside the persistent shell, as the sandbox's user."""
        ...

    async def pause(self) -> None:
        """Stop every process where it stands; memory is kept."""
        ...

    async def resume(self) -> None:
        """Let every process go on."""
        ...

    async def destroy(self, *, keep_workspace: bool = True) -> None:
        """Kill every process and remove what the host held for it. Idempotent."""
        ...


class Provider(Protocol):
    """Makes sandboxes on this host."""

    @property
    def name(self) -> str:
        """The name operators select it by."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do on this host; valid after :meth:`start`."""
        ...

    def probe(self) -> list[Finding]:
        """Examine the host without changing it; takes up to a few seconds."""
        ...

    async def start(self) -> None:
        """Get ready to create sandboxes.

        Raises:
            SandboxUnavailable: the host lacks something; the fix is the finding's.
        """
        ...

    async def create(self, spec: SandboxSpec, sandbox_id: str) -> Sandbox:
        """Create a sandbox, or create it anew over the workspace an earlier one of this id left.

        Args:
            sandbox_id: 1 to 64 of ``[A-Za-z0-9_-]``; the worker uses the session's id.

        Raises:
            SandboxBusy: the id is live in this or another living worker.
            SandboxError: it did not come up.
        """
        ...

    async def sweep(self) -> list[str]:
        """Kill and remove what dead workers left; workspaces stay. Returns the ids cleaned."""
        ...

    async def watch(self) -> None:
        """Hold live sandboxes to the limits that the kernel does not hold, until cancelled."""
        ...

    async def forget(self, sandbox_id: str) -> None:
        """Remove the workspace of a sandbox that is not live. Idempotent."""
        ...

    async def aclose(self) -> None:
        """Destroy all live sandboxes (workspaces stay) and release the host's resources."""
        ...


__all__ = [
    "Capabilities",
    "ExecResult",
    "Finding",
    "Level",
    "Limits",
    "Mount",
    "Provider",
    "Sandbox",
    "SandboxBusy",
    "SandboxError",
    "SandboxGone",
    "SandboxPaused",
    "SandboxSpec",
    "SandboxUnavailable",
    "ToolOutcome",
]
