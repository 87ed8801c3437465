"""From a spec to bwrap's command line. Pure but for looking at which host files exist.

The rules behind it, each met by trying: bwrap never starts as host root (its inner uid would be
host uid 0 on files the covered /proc shows); its environment is empty (its own environ is readable
inside); our supervisor is process 1 (bwrap's is writable inside); no user namespace can be made
inside; every temporary file system is sized; everything else is read-only.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from intramuros.execution.sandbox.base import WORKSPACE, Mount, SandboxError, SandboxSpec
from intramuros.execution.sandbox.drives import WORKSPACE as WORKSPACE_DIRECTORY
from intramuros.execution.sandbox.drives import Drive
from intramuros.execution.sandbox.launcher import STAGE
from intramuros.execution.sandbox.rootfs import (
    AGENT_ID,
    LIBRARY_TARGET,
    PYTHON_TARGET,
    SCRATCH,
    Python,
    base_arguments,
    egress_arguments,
    image_arguments,
    kernel_arguments,
    trust_arguments,
)
from intramuros.execution.sandbox.runtime import command

BYTES_PER_FILE, MIN_FILES, MAX_FILES = 4096, 4096, 65_536
CHANNEL_FD = 3
SECCOMP_FD = 4
_RESERVED = ("/proc", "/dev", "/sys", "/usr", "/etc", "/tmp", LIBRARY_TARGET)  # noqa: S108 - names inside

_ISOLATION = (
    "--unshare-user",
    "--unshare-ipc",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--disable-userns",
    "--die-with-parent",
    "--new-session",
    "--as-pid-1",
)


@dataclass(frozen=True)
class Plan:
    """What to start: the command line, and the host paths it wants staged, in order."""

    program: str
    argv: list[str]
    stage: list[str]
    scratch: list[str]


@dataclass(frozen=True)
class Places:
    """Host paths a sandbox is made of."""

    runtime: Path
    binary: Path
    workspace: Path
    python: Python
    drive: Drive | None = None
    """What the workspace is on, if it is on one of its own."""
    etc: Path | None = None
    """What holds an ``etc`` prepared for this spec, which then has no image."""

    @property
    def device(self) -> str | None:
        """What the launcher is to mount."""
        return None if self.drive is None else self.drive.device

    @property
    def shown(self) -> str:
        """The workspace as the launcher finds it: by its place on the drive, or on the host."""
        return str(self.workspace) if self.drive is None else WORKSPACE_DIRECTORY


def plan(spec: SandboxSpec, places: Places, *, uid: int, seccomp: bool) -> Plan:
    """Return how to start a sandbox.

    Args:
        uid: host uid it will have.
        seccomp: whether a filter is passed as descriptor SECCOMP_FD.

    Raises:
        SandboxError: a mount would hide something the sandbox stands on.
    """
    sources: list[str] = []

    def source(path: Path | str) -> str:
        sources.append(str(path))
        return f"{STAGE}/{len(sources) - 1}"

    argv = ["bwrap", *_ISOLATION, "--cap-drop", "ALL"]
    argv += ["--uid", str(AGENT_ID), "--gid", str(AGENT_ID), "--hostname", "sandbox"]
    if seccomp:
        argv += ["--seccomp", str(SECCOMP_FD)]
    runtime = source(places.runtime)
    program = str(places.binary)
    if places.binary.is_relative_to(places.runtime):
        program = f"{runtime}/{places.binary.relative_to(places.runtime)}"
    if spec.rootfs is None:
        etc = None if places.etc is None else f"{source(places.etc)}/etc"
        argv += base_arguments(runtime, etc)
    else:
        argv += image_arguments(spec.rootfs, source(spec.rootfs), runtime)
    if spec.egress == "names" and places.etc is None:
        argv += egress_arguments(runtime)
    if spec.trust is not None:
        argv += trust_arguments(source(spec.trust), spec.rootfs or places.etc or Path("/"))
    argv += kernel_arguments()
    argv += [word for at in spec.devices for word in ("--dev-bind", source(at), str(at))]
    if places.python.host_prefix is not None:
        argv += ["--ro-bind", source(places.python.host_prefix), PYTHON_TARGET]
    argv += ["--ro-bind", f"{runtime}/lib", LIBRARY_TARGET]
    argv += ["--bind", source(places.shown), WORKSPACE]
    for mount in spec.mounts:
        check_mount(mount)
        argv += ["--ro-bind" if mount.read_only else "--bind", source(mount.source), mount.target]
    scratch = scratch_options(spec.limits.tmp_bytes, uid)
    for number, target in enumerate(SCRATCH, len(sources)):
        argv += ["--bind", f"{STAGE}/{number}", target]
    argv += ["--symlink", "../tmp", "/var/tmp"]  # noqa: S108 - inside
    argv += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
    return Plan(program, [*argv, "--", *command(places.python)], sources, scratch)


def scratch_options(size: int, uid: int) -> list[str]:
    """Return tmpfs options; each file costs the kernel about a kilobyte, so they are counted."""
    files = min(max(size // BYTES_PER_FILE, MIN_FILES), MAX_FILES)
    limits = f"size={size},nr_inodes={files},uid={uid},gid={uid}"
    return [f"mode={mode},{limits}" for mode in SCRATCH.values()]


def check_mount(mount: Mount) -> None:
    """Refuse a mount that would hide or open something the sandbox stands on.

    Raises:
        SandboxError: with the reason.
    """
    target = PurePosixPath(mount.target)
    if not target.is_absolute() or ".." in target.parts or str(target) != mount.target:
        raise SandboxError(f"mount target {mount.target!r} is not a plain absolute path")
    if mount.target in ("/", WORKSPACE) or any(target.is_relative_to(place) for place in _RESERVED):
        raise SandboxError(f"mount target {mount.target} is reserved: use a path below /mnt")
    if not mount.source.exists():
        raise SandboxError(f"mount source {mount.source} does not exist")
