"""From a spec to a container's ``config.json`` and the directory its root begins as.

The rules behind it: the runtime is root only in a user namespace of two ids (``launcher.py``), and
what it starts is the other one, without capabilities; our supervisor is process 1, and takes its
calls on descriptor 0; it filters system calls itself, with the filter that every provider has;
the root is read-only, and every place that can be written is sized. Limits of the whole are the
control groups', which runtime and container are in from their first instruction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from intramuros.execution.sandbox.base import WORKSPACE, SandboxError, SandboxSpec
from intramuros.execution.sandbox.launch import (
    BYTES_PER_FILE,
    MAX_FILES,
    MIN_FILES,
    Places,
    check_mount,
    scratch_options,
)
from intramuros.execution.sandbox.launcher import STAGE
from intramuros.execution.sandbox.oci.carried import has_program
from intramuros.execution.sandbox.rootfs import (
    AGENT_ID,
    LIBRARY_TARGET,
    MADE_UP,
    PYTHON_TARGET,
    RESOLVING,
    SCRATCH,
    TRUST,
    base_arguments,
    trust_arguments,
)
from intramuros.execution.sandbox.runtime import contained_command

_MADE: Final = "@"
"""Stands for the runtime directory in arguments meant for bwrap; its files are written here."""
_MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
)
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys")
_NAMESPACES: Final = ("pid", "network", "ipc", "uts", "mount", "cgroup")
_CAPABILITY_SETS: Final = ("bounding", "effective", "permitted", "inheritable", "ambient")
_DIRECTORIES: Final = (
    *("/dev", "/etc", "/home", "/opt", "/proc", "/run", "/sys", "/tmp", "/var"),  # noqa: S108 - inside
    *(LIBRARY_TARGET, PYTHON_TARGET, WORKSPACE, *SCRATCH),
)


@dataclass(frozen=True)
class Skeleton:
    """What a container's root has beside its image; made anew for each container."""

    directories: list[str] = field(default_factory=lambda: list(_DIRECTORIES))
    files: dict[str, str] = field(default_factory=dict)
    """Content by path; empty ones are there to be mounted over."""
    links: dict[str, str] = field(default_factory=dict)
    """Target by path."""
    programs: dict[str, str] = field(default_factory=dict)
    """Scripts by path."""

    def write(self, root: Path) -> None:
        """Make it on the host, readable to all.

        Raises:
            OSError: it cannot be made.
        """
        root.mkdir(mode=0o755)
        for path in self.directories:
            (root / path.lstrip("/")).mkdir(mode=0o755, parents=True, exist_ok=True)
        for path, mode in SCRATCH.items():
            (root / path.lstrip("/")).chmod(int(mode, 8))  # which runc gives what it mounts there
        for path, text in {**self.files, **self.programs}.items():
            file = root / path.lstrip("/")
            file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755 if path in self.programs else 0o644)
        for path, target in self.links.items():
            link = root / path.lstrip("/")
            link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            link.symlink_to(target)


@dataclass(frozen=True)
class Container:
    """What to hand to a runtime, and the host paths it wants staged, in order."""

    config: dict[str, Any]
    skeleton: Skeleton
    stage: list[str]
    scratch: list[str]
    overlays: list[list[int]]
    bundle: str
    """Where the runtime finds the bundle."""
    program: str
    """Where it is itself."""


class _Stage:
    """Numbers the host paths as the launcher will."""

    def __init__(self) -> None:
        self.sources: list[str] = []

    def add(self, path: Path | str) -> str:
        self.sources.append(str(path))
        return f"{STAGE}/{len(self.sources) - 1}"


def compose(
    spec: SandboxSpec,
    places: Places,
    bundle: Path,
    *,
    bash: str = "",
    own_kernel: bool = False,
    owner: int = AGENT_ID,
) -> Container:
    """Return the container of a spec.

    Args:
        bash: script that starts a shell, for an image that has none.
        own_kernel: whether it is for gVisor, which shows a ``/sys`` of its own unless told
            otherwise, and would not let ``/dev/null`` be written on a read-only ``/dev``. Nor does
            it count the files of its temporary file systems: they are the host's.
        owner: who those belong to, as the launcher names him.
        bundle: the host directory that will hold ``config.json`` and the skeleton, as ``root``.

    Raises:
        SandboxError: a mount would hide something the sandbox stands on.
    """
    stage = _Stage()
    seen, root = stage.add(bundle), stage.add(bundle / "root")
    skeleton = _made_up(spec)
    mounts = _kernel_mounts(own_kernel)
    beginning = len(mounts)
    overlays = []
    if spec.rootfs is None:
        mounts += _translate(base_arguments(_MADE), skeleton)
    else:
        stage.add(spec.rootfs)
        overlays = [[1, 2]]
        _lend_shell(spec.rootfs, bash, skeleton)
    mounts += [bind(stage.add(at), str(at), device=True) for at in spec.devices]
    if spec.trust is not None:
        skeleton.files[TRUST] = ""
        shown = stage.add(spec.trust)
        mounts += _translate(trust_arguments(shown, spec.rootfs or Path("/")), skeleton)
    mounts += _own_mounts(places, stage)
    for mount in spec.mounts:
        check_mount(mount)
        _make_room(skeleton, mount.source, mount.target)
        mounts.append(bind(stage.add(mount.source), mount.target, read_only=mount.read_only))
    program = stage.add(places.binary)
    scratch = scratch_options(spec.limits.tmp_bytes, owner) if own_kernel else []
    # Before all others: one of those may lie in them.
    mounts[beginning:beginning] = (
        _staged_scratch(len(stage.sources))
        if own_kernel
        else _scratch_mounts(spec.limits.tmp_bytes)
    )
    if overlays:
        root = f"{STAGE}/{len(stage.sources) + len(scratch)}"
    config = _config(root, mounts, contained_command(places.python))
    return Container(config, skeleton, stage.sources, scratch, overlays, seen, program)


def _made_up(spec: SandboxSpec) -> Skeleton:
    skeleton = Skeleton()
    for name, text in {**MADE_UP, **(RESOLVING if spec.egress == "names" else {})}.items():
        skeleton.files[f"/etc/{name}"] = text
    skeleton.links["/var/tmp"] = "../tmp"  # noqa: S108 - inside
    return skeleton


def _lend_shell(rootfs: Path, bash: str, skeleton: Skeleton) -> None:
    if bash and not has_program(rootfs, "bash"):
        # The image's /bin may be a link, which must not be hidden by a directory.
        folder = "/usr/bin" if (rootfs / "bin").is_symlink() else "/bin"
        skeleton.programs[f"{folder}/bash"] = bash


def _own_mounts(places: Places, stage: _Stage) -> Iterator[dict[str, Any]]:
    if places.python.host_prefix is not None:
        yield bind(stage.add(places.python.host_prefix), PYTHON_TARGET)
    yield bind(stage.add(places.runtime / "lib"), LIBRARY_TARGET)
    yield bind(stage.add(places.shown), WORKSPACE, read_only=False)


def _staged_scratch(first: int) -> list[dict[str, Any]]:
    """Return the mounts of what the launcher stages after ``first`` sources."""
    return [
        bind(f"{STAGE}/{number}", target, read_only=False)
        for number, target in enumerate(SCRATCH, first)
    ]


def bind(
    source: str, target: str, *, read_only: bool = True, device: bool = False
) -> dict[str, Any]:
    """Return the mount that shows a path of the host."""
    options = ["rbind", "ro" if read_only else "rw", "nosuid", "nodev"]
    if device:
        options = ["bind", "rw", "nosuid", "noexec"]
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _config(root: str, mounts: list[dict[str, Any]], argv: list[str]) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        "root": {"path": root, "readonly": True},
        "mounts": mounts,
        "process": {
            "terminal": False,
            "user": {"uid": AGENT_ID, "gid": AGENT_ID},
            "args": argv,
            "env": [],
            "cwd": "/",
            "capabilities": {kind: [] for kind in _CAPABILITY_SETS},
            "noNewPrivileges": True,
        },
        "linux": {
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def _kernel_mounts(own_kernel: bool) -> list[dict[str, Any]]:
    dev = ["nosuid", "noexec", "mode=0755", "size=64k", *([] if own_kernel else ["ro"])]
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    mounts = [
        _mount("/proc", "proc", ["nosuid", "noexec", "nodev"]),
        _mount("/dev", "tmpfs", dev),
        _mount("/dev/pts", "devpts", pts),
    ]
    if own_kernel:
        mounts.append(_mount("/sys", "tmpfs", ["ro", "nosuid", "noexec", "nodev", "mode=0555"]))
    return mounts


def _mount(target: str, kind: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": options}


def _scratch_mounts(size: int) -> Iterator[dict[str, Any]]:
    files = min(max(size // BYTES_PER_FILE, MIN_FILES), MAX_FILES)
    owner = [f"uid={AGENT_ID}", f"gid={AGENT_ID}"]
    for target, mode in SCRATCH.items():
        limits = [f"size={size}", f"nr_inodes={files}", f"mode={mode}"]
        yield _mount(target, "tmpfs", ["nosuid", "nodev", *limits, *owner])


def _translate(arguments: Sequence[str], skeleton: Skeleton) -> Iterator[dict[str, Any]]:
    """Turn bwrap's arguments into mounts, and put what they make into the skeleton.

    Raises:
        SandboxError: an argument that has no such meaning here.
    """
    words = iter(arguments)
    for word in words:
        if word == "--symlink":
            target, path = next(words), next(words)
            skeleton.links[path] = target
        elif word == "--ro-bind":
            source, path = next(words), next(words)
            if not source.startswith(f"{_MADE}/"):
                _make_room(skeleton, Path(source), path)
                yield bind(source, path)
        else:
            raise SandboxError(f"a container has no {word}")


def _make_room(skeleton: Skeleton, source: Path, target: str) -> None:
    """See that there is something to mount over; below the workspace the runtime sees to it."""
    if target.startswith(f"{WORKSPACE}/"):
        return
    if source.is_dir():
        skeleton.directories.append(target)
    else:
        skeleton.files.setdefault(target, "")
