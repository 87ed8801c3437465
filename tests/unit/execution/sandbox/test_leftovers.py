import os
import subprocess
from pathlib import Path

import pytest

from intramuros.execution.sandbox.cgroups import Groups
from intramuros.execution.sandbox.leftovers import name_of, remove_left
from intramuros.execution.sandbox.records import Identity, identify


@pytest.fixture
def dead() -> Identity:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        found = identify(process.pid)
    assert found
    return found


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    parents = {name: tmp_path / name for name in ("memory", "pids")}
    for parent in parents.values():
        parent.mkdir()
    return Groups(1, {**parents, "cpu": tmp_path / "not-there"})


def made(groups: Groups, name: str) -> Path:
    path = groups.parents["pids"] / f"intramuros-{name}"
    path.mkdir()
    return path


def test_those_of_dead_workers_go_from_every_controller(groups: Groups, dead: Identity) -> None:
    name = name_of(dead, "sesn_a-b")
    paths = [groups.parents[key] / f"intramuros-{name}" for key in ("memory", "pids")]
    for path in paths:
        path.mkdir()
    assert remove_left(groups) == [f"intramuros-{name}"]
    assert not any(path.exists() for path in paths)
    assert remove_left(groups) == []


def test_a_number_that_went_to_another_process_is_nobody(groups: Groups) -> None:
    mine = identify(os.getpid())
    assert mine
    earlier = made(groups, name_of(Identity(mine.pid, mine.start_ticks - 1, mine.boot), "s1"))
    living = made(groups, name_of(mine, "s1"))
    remove_left(groups)
    assert living.exists() and not earlier.exists()


def test_what_may_be_somebody_else_s_stays(groups: Groups, dead: Identity) -> None:
    name = name_of(dead, "s1")
    space, _, rest = name.partition("-")
    kept = [
        made(groups, f"{int(space) + 1}-{rest}"),  # of another container
        made(groups, f"{dead.pid}-s1"),
        made(groups, f"{name.removesuffix('s1')}"),
        made(groups, f"x{name}"),
        made(groups, "probe"),
        groups.parents["pids"] / name,
    ]
    kept[-1].mkdir()
    busy = made(groups, name)
    (busy / "cgroup.procs").touch()  # a directory that is not empty, as one with a process
    assert remove_left(groups) == []
    assert all(path.exists() for path in [*kept, busy])


def test_a_process_that_cannot_be_looked_at_counts_as_alive(groups: Groups, tmp_path: Path) -> None:
    mine = identify(os.getpid())
    assert mine
    hidden = tmp_path / "proc"
    (hidden / "self/ns").mkdir(parents=True)
    (hidden / "self/ns/pid").symlink_to("/proc/self/ns/pid")
    path = made(groups, name_of(mine, "s1", hidden))
    assert remove_left(groups, hidden) == []
    assert path.exists()
