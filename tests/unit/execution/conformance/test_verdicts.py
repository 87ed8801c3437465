import copy
from typing import Any

import pytest

from intramuros.execution.conformance.verdicts import Check, check, judge, judge_deeper

HOST = {"user": "user:[1]", "net": "net:[1]"}
TIGHT: dict[str, Any] = {
    "syscalls": {"mount": "EPERM", "clone3": "ENOSYS"},
    "files": {"read /etc/shadow": "EACCES", "write /usr/bin/env": "EROFS"},
    "sockets": {
        "interfaces": ["lo"],
        "routes": 0,
        "socket icmp": "EPERM",
        "socket vsock": "EAFNOSUPPORT",
        "connect abstract": "ECONNREFUSED",
        "connect metadata": "ENETUNREACH",
    },
    "facts": {
        "caps": ["0" * 16] * 5,
        "no_new_privs": "1",
        "seccomp": "2",
        "uid": 1000,
        "canary": [],
        "own environment": ["HOME", "PATH"],
        "pids": [1, 7, 8],
        "kill host": "ESRCH",
        "fds": [[0, "pipe:[1]"], [3, "/proc/9/fd"]],
        "core limit": [0, 0],
        "setuid root": False,
        "namespaces": {"user": "user:[2]", "net": "net:[2]"},
    },
}


def failed(report: dict[str, Any]) -> list[str]:
    return [one.name for one in judge(report, HOST) if not one.passed]


def test_a_tight_sandbox_passes() -> None:
    assert failed(TIGHT) == []
    assert len(list(judge(TIGHT, HOST))) == 23


@pytest.mark.parametrize(
    ("part", "key", "value", "name"),
    [
        ("syscalls", "mount", "ok", "mount"),
        ("syscalls", "mount", "EFAULT", "mount"),
        ("files", "read /etc/shadow", "ok", "read /etc/shadow"),
        ("files", "read /etc/shadow", "EROFS", "read /etc/shadow"),
        ("files", "write /usr/bin/env", "ok", "write /usr/bin/env"),
        ("sockets", "interfaces", ["eth0", "lo"], "interfaces"),
        ("sockets", "routes", 1, "routes to anywhere"),
        ("sockets", "socket icmp", "ok", "socket icmp"),
        ("sockets", "socket vsock", "EPERM", "socket vsock"),
        ("sockets", "connect abstract", "ok", "connect abstract"),
        ("sockets", "connect metadata", "ECONNREFUSED", "connect metadata"),
        ("facts", "caps", ["0" * 15 + "1"], "capabilities"),
        ("facts", "no_new_privs", "0", "no new privileges"),
        ("facts", "seccomp", "0", "system call filter"),
        ("facts", "uid", 0, "root"),
        ("facts", "own environment", ["HOME", "TOKEN"], "variables of the host"),
        ("facts", "pids", [2, 3], "first process"),
        ("facts", "pids", [1, 2, 3, 400], "processes of others"),
        ("facts", "kill host", "ok", "signal a process of the host"),
        ("facts", "fds", [[5, "/srv/secrets"]], "descriptors of the host"),
        ("facts", "core limit", [0, -1], "core dumps"),
        ("facts", "setuid root", True, "su to root"),
        ("facts", "namespaces", {"user": "user:[2]", "net": "net:[1]"}, "namespaces of the host"),
        (
            *("facts", "canary", ["/proc/1/environ"]),
            "a canary of the host in an environment or command line",
        ),
    ],
)
def test_each_hole_is_seen(part: str, key: str, value: object, name: str) -> None:
    report = copy.deepcopy(TIGHT)
    report[part][key] = value
    assert failed(report) == [name]


def test_a_verdict_says_what_was_wanted() -> None:
    assert check("files", "read /x", "ok", frozenset({"B", "A"})) == Check(
        "files", "read /x", False, "ok", "A or B"
    )
    assert check("network", "routes", 0, "0").passed


DEEPER: dict[str, dict[str, str]] = {
    "refused": {"clone net": "EPERM", "32-bit call": "ENOSYS", "setuid 0": "EINVAL"},
    "shared": {"signal the worker": "ESRCH", "stat /srv/x": "ENOENT"},
    "reached": {"connect any address": "ECONNREFUSED", "socket audit": "EPROTONOSUPPORT"},
    "seen": {"devices": "", "set-user-ID programs": "none"},
}


def test_a_tight_sandbox_passes_the_deeper_part() -> None:
    found = list(judge_deeper(DEEPER))
    assert [one for one in found if not one.passed] == []
    assert len(found) == 9
    assert {one.area for one in found} == {"system calls", "process", "network", "files"}


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("refused", "clone net", "ok"),
        ("refused", "clone net", "EINVAL"),
        ("refused", "setuid 0", "ok"),
        ("refused", "32-bit call", "signal 11"),
        ("shared", "signal the worker", "ok"),
        ("shared", "stat /srv/x", "ok"),
        ("reached", "connect any address", "ok"),
        ("reached", "connect any address", "ETIMEDOUT"),
        ("reached", "socket audit", "ok"),
        ("seen", "devices", "kvm"),
        ("seen", "set-user-ID programs", "0,0,0,0"),
    ],
)
def test_each_deeper_hole_fails_its_own_check(part: str, key: str, value: str) -> None:
    report = copy.deepcopy(DEEPER)
    report[part][key] = value
    assert [one.name for one in judge_deeper(report) if not one.passed] == [key]


def test_a_kernel_in_user_space_answers_in_its_own_way() -> None:
    report = {
        "refused": {"nice -20": "ok", "clone net": "EPERM"},
        "reached": {"connect mapped 6": "EHOSTUNREACH"},
        "seen": {"devices": "fuse,net"},
    }
    assert [one.name for one in judge_deeper(report, own_kernel=True) if not one.passed] == []
    assert [one.passed for one in judge_deeper(report)] == [False, True, False, False]
    report["seen"]["devices"] = "fuse,kvm"
    report["refused"]["clone net"] = "ok"
    failed = [one.name for one in judge_deeper(report, own_kernel=True) if not one.passed]
    assert failed == ["clone net", "devices"]
