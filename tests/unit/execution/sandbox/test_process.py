"""What needs no process; the rest is in tests/integration/execution/test_process_provider.py."""

from pathlib import Path

import pytest

from intramuros.execution.sandbox import process
from intramuros.execution.sandbox.base import (
    Level,
    Mount,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
)
from intramuros.execution.sandbox.process import ProcessProvider
from intramuros.execution.sandbox.rootfs import Python


def test_it_says_first_that_it_isolates_nothing(tmp_path: Path) -> None:
    provider = ProcessProvider(tmp_path)
    first = provider.probe()[0]
    assert first.level is Level.WARNING
    assert "isolate nothing" in first.what
    known = provider.capabilities
    assert (known.isolation, known.egress, known.distinct_uids) == ("none", False, False)
    # Its /tmp and its home are the host's: nothing may be put away and cleared there.
    assert (known.snapshots, known.gpu) == (False, False)


@pytest.mark.parametrize(
    "spec", [SandboxSpec(rootfs=Path("/srv/image")), SandboxSpec(egress="names")]
)
def test_what_it_cannot_hold_it_refuses(spec: SandboxSpec) -> None:
    with pytest.raises(SandboxUnavailable, match="sandboxes of 'process'"):
        process._refuse(spec)


def test_the_interpreter_has_its_path_outside() -> None:
    assert process._on_host(Python("/usr/bin/python3")).inside == "/usr/bin/python3"
    carried = Python("/opt/python/bin/python3.12", Path("/srv/py"))
    assert process._on_host(carried).inside == "/srv/py/bin/python3.12"


def test_mounts_below_the_workspace_become_links(tmp_path: Path) -> None:
    workspace, source = tmp_path / "workspace", tmp_path / "source"
    workspace.mkdir()
    source.mkdir()
    for _ in range(2):
        process._link(workspace, Mount(source, "/workspace/skills"))
    assert (workspace / "skills").readlink() == source
    process._link(workspace, Mount(source, "/mnt/elsewhere"))
    assert [path.name for path in workspace.iterdir()] == ["skills"]
    with pytest.raises(SandboxError, match="cannot show"):
        process._link(workspace, Mount(source, "/workspace/deep/skills"))
