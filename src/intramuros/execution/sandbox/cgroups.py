"""Control groups of sandboxes, version 1 and 2, below the group the worker itself runs in.

What cannot be had is left out and shows in :class:`Groups`; the caller says so aloud and falls
back to per-process limits.
"""

import errno
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from intramuros.execution.sandbox.base import Limits

PREFIX = "intramuros-"
"""Of the names of all groups that are ours."""
_V1 = ("memory", "pids", "cpu", "freezer")
_V2 = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
_SWAP = ("memory.memsw.limit_in_bytes", "memory.swap.max")


@dataclass(frozen=True)
class Groups:
    """Where sandboxes get their groups on this host: controller name → parent directory.

    With version 2 every controller has the same parent, and ``freezer`` is always among them.
    """

    version: int
    parents: dict[str, Path] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a controller is missing."""


def find_groups(proc: Path = Path("/proc/self")) -> Groups:
    """Look for controllers in which this process may make groups. Changes nothing.

    Args:
        proc: the process's directory, for ``cgroup`` and ``mountinfo``.
    """
    try:
        own = _own_paths((proc / "cgroup").read_text())
        mounts = _mounts((proc / "mountinfo").read_text())
    except OSError as error:
        return Groups(0, reasons=dict.fromkeys(_V1, str(error)))
    if any(name in mounts for name in _V1):
        return _find_v1(own, mounts)
    if "" in mounts:
        return _find_v2(_locate(mounts[""], own.get("", "/")))
    return Groups(0, reasons=dict.fromkeys(_V1, "no cgroup file system is mounted"))


def _own_paths(text: str) -> dict[str, str]:
    """Map controller (empty for version 2) to this process's group."""
    paths = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        paths.update(dict.fromkeys(names.split(","), path))
    return paths


def _mounts(text: str) -> dict[str, tuple[str, str]]:
    """Map controller (empty for version 2) to (root, mount point)."""
    found: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        kind, _, options = right.split()[:3]
        if kind == "cgroup2":
            found[""] = (root, point)
        elif kind == "cgroup":
            found.update((name, (root, point)) for name in options.split(",") if name in _V1)
    return found


def _locate(mount: tuple[str, str], own: str) -> Path:
    """Return where a group is seen; a container may mount a part of the tree."""
    root, point = mount
    inner = own.removeprefix(root) if root != "/" and own.startswith(root) else own
    return Path(point + "/" + inner.strip("/"))


def _find_v1(own: dict[str, str], mounts: dict[str, tuple[str, str]]) -> Groups:
    parents: dict[str, Path] = {}
    reasons: dict[str, str] = {}
    for name in _V1:
        if name not in mounts:
            reasons[name] = "the controller is not mounted"
            continue
        parent = _locate(mounts[name], own.get(name, "/"))
        problem = _try_make(parent)
        if problem:
            reasons[name] = problem
        else:
            parents[name] = parent
    return Groups(1, parents, reasons)


def _find_v2(own: Path) -> Groups:
    problem = _try_make(own)
    if problem:
        return Groups(2, reasons=dict.fromkeys(_V1, problem))
    parents = {"freezer": own}
    reasons = {}
    for name in _V2:
        try:
            enabled = (own / "cgroup.subtree_control").read_text().split()
            if name not in enabled:
                (own / "cgroup.subtree_control").write_text(f"+{name}")
            parents[name] = own
        except OSError as error:
            reasons[name] = _v2_reason(error)
    return Groups(2, parents, reasons)


def _v2_reason(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "the worker's own group holds processes; start it with systemd's DelegateSubgroup="
    return f"{error.strerror}; start the worker with systemd's Delegate=yes"


def _try_make(parent: Path) -> str:
    """Return why no group can be made below ``parent``, or nothing."""
    probe = parent / f"{PREFIX}probe"
    try:
        probe.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # another worker looks at the same time
            probe.rmdir()
    except OSError as error:
        return f"cannot make a group in {parent} ({error.strerror})"
    return ""


def hurry(groups: Groups) -> None:
    """Have the kernel get ready to move a process into a group; blocks some 10 ms.

    Before the first move of a while it waits until all processors have seen that one comes. A move
    of this process to where it is changes nothing, but begins that wait: whoever moves another one
    meanwhile waits no longer than this does.
    """
    for parent in list(groups.parents.values())[:1]:
        with suppress(OSError):
            (parent / "cgroup.procs").write_text("0")


@dataclass
class Group:
    """The groups of one sandbox."""

    version: int
    paths: dict[str, Path]

    @property
    def procs(self) -> list[str]:
        """Files into which a process writes 0 to enter."""
        return sorted({str(path / "cgroup.procs") for path in self.paths.values()})

    def common(self) -> set[int]:
        """Return the host pids that are in every one of the groups."""
        inside = [self._pids_in(path) for path in set(self.paths.values())]
        return set.intersection(*inside) if inside else set()

    @staticmethod
    def _pids_in(path: Path) -> set[int]:
        try:
            return {int(line) for line in (path / "cgroup.procs").read_text().split()}
        except FileNotFoundError:
            return set()

    @property
    def can_freeze(self) -> bool:
        """Whether :meth:`freeze` works."""
        return "freezer" in self.paths

    def freeze(self, frozen: bool) -> None:
        """Stop or release every process inside; the kernel finishes soon after.

        Raises:
            OSError: the group is gone.
        """
        path = self.paths["freezer"]
        if self.version == 1:
            (path / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
        else:
            (path / "cgroup.freeze").write_text("1" if frozen else "0")

    def is_frozen(self) -> bool:
        """Return whether every process inside has stopped."""
        path = self.paths["freezer"]
        if self.version == 1:
            return (path / "freezer.state").read_text().strip() == "FROZEN"
        return "frozen 1" in (path / "cgroup.events").read_text()

    def pids(self) -> set[int]:
        """Return the host pids inside."""
        return {pid for path in set(self.paths.values()) for pid in self._pids_in(path)}

    def remove(self) -> bool:
        """Remove the groups; False while one still holds a process."""
        for path in set(self.paths.values()):
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno == errno.EBUSY:
                    return False
                raise
        return True


def planned(groups: Groups, name: str) -> Group:
    """Return the groups that :func:`make_group` makes under a name."""
    paths = {key: path / f"{PREFIX}{name}" for key, path in groups.parents.items()}
    return Group(groups.version, paths)


def make_group(groups: Groups, name: str, limits: Limits) -> Group:
    """Make a sandbox's groups with its limits set.

    Args:
        name: no other living sandbox of this host may have it.

    Raises:
        OSError: a limit could not be set; nothing is left behind.
    """
    group = planned(groups, name)
    try:
        for path in set(group.paths.values()):
            path.mkdir(exist_ok=True)
        settings = _settings_v1(limits) if groups.version == 1 else _settings_v2(limits)
        for controller, file, value in settings:
            if controller not in group.paths:
                continue
            path = group.paths[controller] / file
            # Kernels without swap accounting lack these, and only these may be missing.
            if file not in _SWAP or path.exists():
                path.write_text(value)
    except OSError:
        group.remove()
        raise
    return group


def _settings_v1(limits: Limits) -> list[tuple[str, str, str]]:
    quota = max(1000, int(limits.cpus * _PERIOD_US))
    return [
        ("memory", "memory.limit_in_bytes", str(limits.memory_bytes)),
        ("memory", "memory.memsw.limit_in_bytes", str(limits.memory_bytes)),
        ("memory", "memory.swappiness", "0"),
        ("pids", "pids.max", str(limits.pids)),
        ("cpu", "cpu.cfs_period_us", str(_PERIOD_US)),
        ("cpu", "cpu.cfs_quota_us", str(quota)),
    ]


def _settings_v2(limits: Limits) -> list[tuple[str, str, str]]:
    quota = max(1000, int(limits.cpus * _PERIOD_US))
    return [
        ("memory", "memory.max", str(limits.memory_bytes)),
        ("memory", "memory.swap.max", "0"),
        ("pids", "pids.max", str(limits.pids)),
        ("cpu", "cpu.max", f"{quota} {_PERIOD_US}"),
    ]
