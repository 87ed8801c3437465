"""What needs no container; the rest is in tests/integration/execution/test_containers.py."""

from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import (
    Level,
    Provider,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
)
from intramuros.execution.sandbox.oci import provider as module
from intramuros.execution.sandbox.oci import runtimes
from intramuros.execution.sandbox.oci.provider import ContainerProvider, GvisorProvider

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", [ContainerProvider, GvisorProvider])
async def test_it_fails_closed_where_no_runtime_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[ContainerProvider]
) -> None:
    monkeypatch.setattr(runtimes, "SEARCH", str(tmp_path))
    provider: Provider = kind(tmp_path / "state")
    [finding] = provider.probe()
    assert finding.level is Level.FAILURE
    assert "is not installed" in finding.what
    with pytest.raises(SandboxUnavailable) as caught:
        await provider.create(SandboxSpec(), "s1")
    assert caught.value.fix == finding.fix
    assert not (tmp_path / "state").exists()


def test_they_say_what_they_are(tmp_path: Path) -> None:
    containers, gvisor = ContainerProvider(tmp_path), GvisorProvider(tmp_path)
    assert (containers.name, containers.capabilities.isolation) == ("oci", "container")
    assert (gvisor.name, gvisor.capabilities.isolation) == ("gvisor", "user-kernel")
    assert containers.capabilities.egress
    assert (containers.capabilities.snapshots, containers.capabilities.gpu) == (True, True)
    assert (gvisor.capabilities.snapshots, gvisor.capabilities.gpu) == (True, False)


def test_refusals_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.bwrap, "_read", lambda path: "")
    explain = ContainerProvider(tmp_path).explain
    refused = explain("launcher: [Errno 1] unshare user: Operation not permitted")
    assert isinstance(refused, SandboxUnavailable)
    assert "may not make namespaces" in refused.problem
    failed = explain("noise\nrunc run failed: no such thing\n")
    assert type(failed) is SandboxError
    assert str(failed) == "the container did not come up (runc run failed: no such thing)"
    assert "no reason given" in str(explain(""))
