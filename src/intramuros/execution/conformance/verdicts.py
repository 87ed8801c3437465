"""What each attempt must have met, and the verdict on it. Pure."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

Report = Mapping[str, Any]

_ABSENT: Final = frozenset({"ENOENT", "EACCES", "EPERM"})
_UNWRITABLE: Final = frozenset({"EROFS", "EACCES", "EPERM", "ENOENT", "ETXTBSY"})
_REFUSED: Final = frozenset({"EPERM", "ENOSYS"})
_NO_ONE: Final = frozenset({"ECONNREFUSED", "EADDRNOTAVAIL"})
_NO_WAY: Final = frozenset({"ENETUNREACH", "EACCES", "EPERM"})
_NO_PROTOCOL: Final = frozenset({"EPERM", "EACCES", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT"})
_NO_NAME: Final = frozenset({"-2", "-3", "-5"})
"""EAI_NONAME, EAI_AGAIN and EAI_NODATA of looking a name up."""
_NOT_THERE: Final = frozenset({"ENOENT", "ESRCH", "EBADF", "EACCES", "EPERM", "ENOSYS"})
_NO_ROUTE: Final = frozenset({"EHOSTUNREACH", "TimeoutError('timed out')"})
_OWN_PRIORITIES: Final = frozenset({"real-time scheduling", "nice -20", "out of memory last"})
# Refused for what was asked rather than for who asked: nobody inside may become root, for one.
_OTHER_WORDS: Final = (
    ("setuid", "EINVAL"),
    ("setgid", "EINVAL"),
    ("prctl", "EINVAL"),
    ("nice", "EACCES"),
    ("out of memory", "EACCES"),
    ("raise open files", "ValueError('not allowed to raise maximum limit')"),
)
# Listeners of the host: they exist, and nobody may get an answer.
_LISTENERS: Final = frozenset(
    {"connect host loopback", "connect host loopback 6", "connect abstract"}
)
# What a program may find in its environment.
_VARIABLES: Final = frozenset({"HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "USER"})
_NO_POWERS: Final = "0" * 16
_OWN_DEVICES: Final = frozenset({"read /dev/net/tun", "read /dev/fuse"})


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried.

    Args:
        area: what it belongs to: system calls, files, network, process, limits, neighbours, life.
        name: what was tried.
        passed: whether it went as it must.
        found: what happened.
        wanted: what must happen.
    """

    area: str
    name: str
    passed: bool
    found: str
    wanted: str


def check(area: str, name: str, found: object, wanted: Set[str] | str) -> Check:
    """Return the verdict on one finding, of which some are right."""
    right = {wanted} if isinstance(wanted, str) else wanted
    return Check(area, name, str(found) in right, str(found), " or ".join(sorted(right)))


def judge(
    report: Report, namespaces: Mapping[str, str], *, own_kernel: bool = False
) -> Iterator[Check]:
    """Yield a verdict on each attempt that ``inside`` reports.

    Args:
        namespaces: those of the host, by kind; a sandbox must share none of them.
        own_kernel: whether the sandbox has a kernel of its own, of which the battery may see what
            on the host's nobody may.
    """
    if own_kernel:
        report = _as_seen_by_the_host(report)
    for name, found in report["syscalls"].items():
        yield check("system calls", name, found, _REFUSED)
    for name, found in report["files"].items():
        yield check("files", name, found, _ABSENT if name.startswith("read") else _UNWRITABLE)
    yield from _sockets(report["sockets"])
    yield from _process(report["facts"], namespaces)


def judge_deeper(report: Report, *, own_kernel: bool = False) -> Iterator[Check]:
    """Yield a verdict on each attempt that ``deeper`` reports.

    Args:
        own_kernel: whether the sandbox has a kernel of its own, as for :func:`judge`.
    """
    if own_kernel:
        report = _deeper_as_seen_by_the_host(report)
    for name, found in report.get("refused", {}).items():
        more = {other for start, other in _OTHER_WORDS if name.startswith(start)}
        yield check("system calls", name, found, _REFUSED | more)
    for name, found in report.get("shared", {}).items():
        yield check("process", name, found, _NOT_THERE)
    for name, found in report.get("reached", {}).items():
        wanted = _NO_PROTOCOL if name.startswith("socket") else _NO_ONE | _NO_WAY | _NO_NAME
        yield check("network", name, found, wanted)
    for name, found in report.get("seen", {}).items():
        yield _none("files", name, "" if found == "none" else found, found)


def _deeper_as_seen_by_the_host(report: Report) -> Report:
    """Return the report with what a kernel in user space answers in its own way put as the host's.

    Priorities are its own affair, which the host's scheduler never hears of.
    """
    refused = {
        name: "EPERM" if name in _OWN_PRIORITIES else found
        for name, found in report.get("refused", {}).items()
    }
    reached = {
        name: "ENETUNREACH" if found in _NO_ROUTE else found
        for name, found in report.get("reached", {}).items()
    }
    seen = dict(report.get("seen", {}))
    if "devices" in seen:
        devices = {name for name in seen["devices"].split(",") if name}
        seen["devices"] = ",".join(sorted(devices - {"fuse", "net"}))
    return {**report, "refused": refused, "reached": reached, "seen": seen}


def _as_seen_by_the_host(report: Report) -> Report:
    """Return the report with what a kernel in user space answers in its own way put as the host's.

    Its devices are its own, it has no route instead of no network, and it refuses to open a socket
    by name with an error of its own.
    """
    files = dict(report["files"])
    for name in _OWN_DEVICES:
        files[name] = "ENOENT"
    if files["read /proc/1/fd/3"] == "ENXIO":
        files["read /proc/1/fd/3"] = "EACCES"
    sockets = {
        name: "ENETUNREACH" if found == "EHOSTUNREACH" else found
        for name, found in report["sockets"].items()
    }
    return {**report, "files": files, "sockets": sockets}


def _sockets(found: Mapping[str, Any]) -> Iterator[Check]:
    for name, outcome in found.items():
        if name == "interfaces":
            yield check("network", "interfaces", ",".join(outcome), "lo")
        elif name == "routes":
            yield check("network", "routes to anywhere", outcome, "0")
        elif name == "socket icmp":
            yield check("network", name, outcome, frozenset({"EPERM", "EACCES"}))
        elif name.startswith("socket"):
            yield check("network", name, outcome, "EAFNOSUPPORT")
        else:
            yield check("network", name, outcome, _NO_ONE if name in _LISTENERS else _NO_WAY)


def _process(facts: Mapping[str, Any], namespaces: Mapping[str, str]) -> Iterator[Check]:
    area = "process"
    yield check(area, "capabilities", ",".join(sorted(set(facts["caps"]))), _NO_POWERS)
    yield check(area, "no new privileges", facts["no_new_privs"], "1")
    yield check(area, "system call filter", facts["seccomp"], "2")
    yield _none(area, "root", facts["uid"] == 0, "uid 0")
    yield _none(area, "a canary of the host in an environment or command line", facts["canary"])
    more = sorted(set(facts["own environment"]) - _VARIABLES)
    yield _none(area, "variables of the host", more)
    yield check(area, "first process", facts["pids"][0], "1")
    yield _none(area, "processes of others", facts["pids"][3:])
    yield check(area, "signal a process of the host", facts["kill host"], "ESRCH")
    others = [link for number, link in facts["fds"] if number > 2 and not link.startswith("/proc/")]
    yield _none(area, "descriptors of the host", others)
    yield check(area, "core dumps", facts["core limit"], "[0, 0]")
    yield check(area, "su to root", facts["setuid root"], "False")
    shared = sorted(kind for kind, link in facts["namespaces"].items() if namespaces[kind] == link)
    yield _none(area, "namespaces of the host", shared)


def _none(area: str, name: str, found: object, shown: str = "") -> Check:
    """Return the verdict on something that must not be there."""
    text = shown or (", ".join(map(str, found)) if isinstance(found, Sequence) else str(found))
    return Check(area, name, not found, text if found else "none", "none")
