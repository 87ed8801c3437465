"""Groups over a made-up /proc and a directory that plays the cgroup file system."""

import errno
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import MIB, Limits
from intramuros.execution.sandbox.cgroups import Group, Groups, find_groups, hurry, make_group

LIMITS = Limits(cpus=0.5, memory_bytes=64 * MIB, pids=9)


def describe(tmp_path: Path, own: str, mounts: list[str]) -> Path:
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(own)
    (proc / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    return proc


def v1_mount(point: Path, name: str, root: str = "/") -> str:
    return f"30 25 0:26 {root} {point} rw,relatime shared:9 - cgroup cgroup rw,{name}"


def v2_mount(point: Path, root: str = "/") -> str:
    return f"30 25 0:26 {root} {point} rw,relatime shared:9 - cgroup2 cgroup2 rw"


def test_version_1_is_found_below_our_own_groups(tmp_path: Path) -> None:
    names = ["memory", "pids", "cpu", "freezer"]
    for name in names:
        (tmp_path / name / "worker").mkdir(parents=True)
    own = "".join(f"{n}:{name}:/worker\n" for n, name in enumerate(names)) + "0::/elsewhere\n"
    proc = describe(tmp_path, own, [v1_mount(tmp_path / name, name) for name in names])
    groups = find_groups(proc)
    assert groups.version == 1
    assert groups.parents == {name: tmp_path / name / "worker" for name in names}
    assert groups.reasons == {}


def test_controllers_mounted_together_and_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    mount = f"30 25 0:26 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu,cpuacct"
    groups = find_groups(describe(tmp_path, "4:cpu,cpuacct:/\n", [mount]))
    assert groups.parents == {"cpu": tmp_path / "cpu"}
    assert set(groups.reasons) == {"memory", "pids", "freezer"}


def test_a_container_sees_a_part_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "sys/inner").mkdir(parents=True)
    (tmp_path / "sys/inner/cgroup.subtree_control").write_text("memory pids cpu\n")
    mount = v2_mount(tmp_path / "sys", root="/docker/abc")
    groups = find_groups(describe(tmp_path, "0::/docker/abc/inner\n", [mount]))
    assert groups.version == 2
    assert set(groups.parents.values()) == {tmp_path / "sys/inner"}
    assert set(groups.parents) == {"memory", "pids", "cpu", "freezer"}


def test_version_2_switches_controllers_on_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys/cgroup.subtree_control").write_text("pids\n")
    real = Path.write_text

    def refuse(path: Path, text: str, *args: object, **more: object) -> int:
        if text == "+memory":
            raise OSError(errno.EBUSY, "busy")
        if text == "+cpu":
            raise OSError(errno.EACCES, "Permission denied")
        return real(path, text, *args, **more)

    proc = describe(tmp_path, "0::/\n", [v2_mount(tmp_path / "sys")])
    monkeypatch.setattr(Path, "write_text", refuse)
    groups = find_groups(proc)
    assert set(groups.parents) == {"pids", "freezer"}
    assert "DelegateSubgroup" in groups.reasons["memory"]
    assert "Delegate=yes" in groups.reasons["cpu"]


def test_nothing_mounted_or_readable_leaves_reasons(tmp_path: Path) -> None:
    assert find_groups(describe(tmp_path, "", [])).parents == {}
    unreadable = find_groups(tmp_path / "none")
    assert set(unreadable.reasons) == {"memory", "pids", "cpu", "freezer"}


def v1(tmp_path: Path) -> Groups:
    parents = {name: tmp_path / name for name in ("memory", "pids", "cpu", "freezer")}
    for path in parents.values():
        path.mkdir()
    return Groups(1, parents)


def test_limits_are_written_in_each_version_s_words(tmp_path: Path) -> None:
    group = make_group(v1(tmp_path), "s1", LIMITS)
    name = "intramuros-s1"
    assert (tmp_path / "memory" / name / "memory.limit_in_bytes").read_text() == str(64 * MIB)
    assert (tmp_path / "pids" / name / "pids.max").read_text() == "9"
    assert (tmp_path / "cpu" / name / "cpu.cfs_quota_us").read_text() == "50000"
    entered = [tmp_path / part / name / "cgroup.procs" for part in group.paths]
    assert group.procs == sorted(map(str, entered))
    assert group.common() == set()
    for path in entered:
        path.write_text("12\n")
    assert group.common() == {12}
    entered[0].write_text("12\n13\n")
    assert (group.common(), group.pids()) == ({12}, {12, 13})
    both = tmp_path / "v2"
    both.mkdir()
    parents = dict.fromkeys(("memory", "pids", "cpu", "freezer"), both)
    group = make_group(Groups(2, parents), "s1", LIMITS)
    assert (both / name / "memory.max").read_text() == str(64 * MIB)
    assert (both / name / "cpu.max").read_text() == "50000 100000"
    assert group.procs == [str(both / name / "cgroup.procs")]


def test_freezing_speaks_each_version_s_language(tmp_path: Path) -> None:
    old = Group(1, {"freezer": tmp_path})
    old.freeze(True)
    assert (tmp_path / "freezer.state").read_text() == "FROZEN"
    assert old.is_frozen()
    old.freeze(False)
    assert not old.is_frozen()
    new = Group(2, {"freezer": tmp_path})
    new.freeze(True)
    assert (tmp_path / "cgroup.freeze").read_text() == "1"
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert new.is_frozen()
    assert not Group(1, {"memory": tmp_path}).can_freeze


def test_removal_waits_for_the_last_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(1, {"pids": tmp_path / "g", "cpu": tmp_path / "gone"})
    (tmp_path / "g").mkdir()
    (tmp_path / "g/cgroup.procs").write_text("12\n13\n")
    assert group.pids() == {12, 13}
    real = Path.rmdir

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(Path, "rmdir", busy)
    assert not group.remove()
    monkeypatch.setattr(Path, "rmdir", real)
    (tmp_path / "g/cgroup.procs").unlink()
    assert group.remove()
    assert group.remove()
    assert group.pids() == set()


def test_a_limit_that_cannot_be_set_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "invalid")

    groups = v1(tmp_path)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OSError, match="invalid"):
        make_group(groups, "s1", LIMITS)
    assert list(tmp_path.rglob("intramuros-*")) == []


def test_hurrying_moves_this_process_to_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    hurry(Groups(1, {"pids": tmp_path, "memory": tmp_path / "not-there"}))
    assert (tmp_path / "cgroup.procs").read_text() == "0"
    hurry(Groups(1, {"memory": tmp_path / "not-there"}))
    hurry(Groups(2))
