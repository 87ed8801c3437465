import os
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import SandboxUnavailable
from intramuros.execution.sandbox.oci import runtimes
from intramuros.execution.sandbox.oci.runtimes import (
    CONTAINERS,
    GVISOR,
    Kind,
    Runtime,
    Subordinates,
    Whereabouts,
    find_runtime,
    find_subordinates,
)

WHERE = Whereabouts("sesn_1", "/tmp/0", "/tmp/0/run/state", "/tmp/0/run/pid")
HYBRID = (
    "24 1 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
    "25 24 0:23 / /sys/fs/cgroup/pids rw shared:3 - cgroup cgroup rw,pids\n"
    "26 24 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)


def installed(tmp_path: Path, name: str, says: str) -> Path:
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return program


def test_the_first_there_is_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "SEARCH", str(tmp_path))
    crun = installed(tmp_path, "crun", "crun version 1.21\ncommit: x")
    assert find_runtime(CONTAINERS) == Runtime("crun", crun, "1.21")
    runc = installed(tmp_path, "runc", "runc version 1.1.15+ds1")
    assert find_runtime(CONTAINERS) == Runtime("runc", runc, "1.1.15+ds1")
    assert find_runtime(CONTAINERS, "crun").binary == crun
    assert find_runtime(CONTAINERS, str(crun)).kind == "crun"


def test_what_is_not_there_or_not_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "SEARCH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"runc or crun is not installed.*apt-get"):
        find_runtime(CONTAINERS)
    with pytest.raises(SandboxUnavailable, match="runsc is not installed"):
        find_runtime(GVISOR)
    with pytest.raises(SandboxUnavailable, match="'docker' runs no such sandboxes"):
        find_runtime(CONTAINERS, "docker")
    with pytest.raises(SandboxUnavailable, match="does not run"):
        find_runtime(CONTAINERS, str(tmp_path / "gone"))
    other = installed(tmp_path, "other", "other version 1")
    with pytest.raises(SandboxUnavailable, match="is no runc or crun"):
        find_runtime(CONTAINERS, str(other))
    runc = installed(tmp_path, "runc", "runc version 1")
    with pytest.raises(SandboxUnavailable, match="is no runsc"):
        find_runtime(GVISOR, str(runc))


@pytest.mark.parametrize(
    ("kind", "network", "options"),
    [
        ("runc", False, ["--rootless", "true"]),
        ("crun", True, ["--cgroup-manager=disabled"]),
        ("runsc", False, ["--ignore-cgroups", "--network=none"]),
        ("runsc", True, ["--ignore-cgroups", "--network=host"]),
    ],
)
def test_each_is_called_in_its_own_way(kind: Kind, network: bool, options: list[str]) -> None:
    argv = Runtime(kind, Path("/x"), "1").command(WHERE, network=network)
    assert argv[:3] == [kind, "--root", "/tmp/0/run/state"]
    assert argv[3:-7] == options
    assert argv[-7:-2] == ["run", "--detach", "--bundle", "/tmp/0", "--pid-file"]
    assert argv[-2:] == ["/tmp/0/run/pid", "sesn_1"]


def test_crun_must_not_see_both_versions_of_control_groups() -> None:
    crun, runc = Runtime("crun", Path("/x"), "1"), Runtime("runc", Path("/x"), "1")
    assert crun.in_the_way(HYBRID) == ["/sys/fs/cgroup/unified"]
    assert runc.in_the_way(HYBRID) == []
    unified = "26 24 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert crun.in_the_way(unified) == []


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    installed(tmp_path, "newuidmap", "")
    installed(tmp_path, "newgidmap", "")
    monkeypatch.setattr(runtimes, "SEARCH", str(tmp_path))
    (tmp_path / "passwd").write_text(f"other:x:7:7::/:/x\nme:x:{os.geteuid()}:5::/:/x\n")
    return tmp_path


def test_subordinate_ids_are_found_by_name_or_number(etc: Path) -> None:
    (etc / "subuid").write_text("other:1:65536\nme:100000:65536\n")
    (etc / "subgid").write_text(f"garbage\n{os.geteuid()}:200000:65536\n")
    tools = (str(etc / "newuidmap"), str(etc / "newgidmap"))
    assert find_subordinates(etc) == Subordinates(100000, 200000, tools)


def test_without_subordinate_ids_the_fix_is_said(etc: Path) -> None:
    with pytest.raises(SandboxUnavailable, match=r"no subordinate ids.*usermod .* me$"):
        find_subordinates(etc)
    (etc / "subuid").write_text("me:100000:0\n")
    (etc / "subgid").write_text("me:100000:65536\n")
    with pytest.raises(SandboxUnavailable, match="no subordinate ids"):
        find_subordinates(etc)
    (etc / "newuidmap").unlink()
    with pytest.raises(SandboxUnavailable, match="newuidmap"):
        find_subordinates(etc)
