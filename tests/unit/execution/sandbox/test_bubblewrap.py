"""What needs no sandbox; the rest is in tests/integration/execution."""

import os
from pathlib import Path

import pytest

from intramuros.execution.sandbox import bubblewrap
from intramuros.execution.sandbox.base import (
    Finding,
    Level,
    Provider,
    SandboxBusy,
    SandboxSpec,
    SandboxUnavailable,
)
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider, thaw
from intramuros.execution.sandbox.cgroups import Group, Groups
from intramuros.execution.sandbox.records import Record, identify

pytestmark = pytest.mark.anyio


async def test_it_fails_closed_with_the_finding_s_own_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider: Provider = BubblewrapProvider(tmp_path / "state")
    finding = Finding(Level.FAILURE, "no namespaces", "run: sysctl x=1")
    monkeypatch.setattr(bubblewrap.bwrap, "probe", lambda: [finding])
    with pytest.raises(SandboxUnavailable) as caught:
        await provider.create(SandboxSpec(), "s1")
    assert (caught.value.problem, caught.value.fix) == (finding.what, finding.fix)
    assert not (tmp_path / "state").exists()


async def test_a_state_directory_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(bubblewrap.bwrap, "probe", list)
    with pytest.raises(SandboxUnavailable, match="cannot write the sandbox state directory"):
        await BubblewrapProvider(tmp_path / "file" / "state").start()


async def test_ids_that_are_no_file_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a sandbox id"):
        await BubblewrapProvider(tmp_path).create(SandboxSpec(), "../x")
    with pytest.raises(ValueError, match="is not a sandbox id"):
        await BubblewrapProvider(tmp_path).forget("..")


@pytest.mark.parametrize(
    ("parents", "pause", "memory"),
    [
        ({}, "signal", "per-process"),
        (dict.fromkeys(("memory", "freezer"), Path("/x")), "freezer", "cgroup"),
    ],
)
def test_capabilities_tell_what_the_host_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parents: dict, pause: str, memory: str
) -> None:
    monkeypatch.setattr(bubblewrap, "find_groups", lambda: Groups(1, parents))
    found = BubblewrapProvider(tmp_path).capabilities
    assert (found.pause, found.memory_limit, found.cpu_limit) == (pause, memory, False)
    assert found.distinct_uids == (os.geteuid() == 0)


async def test_a_living_worker_s_sandboxes_are_left_alone(tmp_path: Path) -> None:
    provider = BubblewrapProvider(tmp_path)
    (tmp_path / "sandboxes").mkdir()
    parent = identify(os.getppid())
    assert parent
    provider._records.save(Record("theirs", parent))
    assert await provider.sweep() == []
    with pytest.raises(SandboxBusy, match=f"worker process {parent.pid}"):
        await provider._clear_earlier("theirs")


def test_thawing_speaks_both_versions(tmp_path: Path) -> None:
    (tmp_path / "freezer.state").write_text("FROZEN")
    (tmp_path / "cgroup.freeze").write_text("1")
    thaw(Group(0, {"x": tmp_path, "y": tmp_path / "gone"}))
    assert (tmp_path / "freezer.state").read_text() == "THAWED"
    assert (tmp_path / "cgroup.freeze").read_text() == "0"
