from pathlib import Path

import anyio
import pytest

from intramuros.execution.sandbox import trial
from intramuros.execution.sandbox.base import (
    Level,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
    ToolOutcome,
)
from intramuros.execution.sandbox.trial import probe_for_real, try_provider

pytestmark = pytest.mark.anyio


class Fake:
    """A provider and the only sandbox it makes."""

    name = "fake"

    def __init__(
        self, bash: str = "works", read: str = "x", fault: Exception | None = None
    ) -> None:
        self.said = {"bash": bash, "read": read, "write": "wrote 1 bytes"}
        self.fault = fault
        self.done: list[str] = []

    async def start(self) -> None:
        self.done.append("start")

    async def create(self, spec: SandboxSpec, sandbox_id: str) -> "Fake":
        if self.fault is not None:
            raise self.fault
        assert sandbox_id.startswith("trial-")
        return self

    async def call(self, tool: str, arguments: dict) -> ToolOutcome:
        if self.said[tool] == "slow":
            await anyio.sleep_forever()
        return ToolOutcome.text(self.said[tool])

    async def destroy(self, *, keep_workspace: bool) -> None:
        assert not keep_workspace
        self.done.append("destroy")

    async def forget(self, sandbox_id: str) -> None:
        self.done.append("forget")

    async def aclose(self) -> None:
        self.done.append("aclose")


async def test_a_working_provider_is_used_and_cleaned_up() -> None:
    fake = Fake()
    assert 0 <= await try_provider(fake) < 10  # type: ignore[arg-type]  # as much of one as is used
    assert fake.done == ["destroy", "forget"]


@pytest.mark.parametrize(
    ("fake", "why"),
    [
        (Fake(bash="stat: cannot stat '/': Invalid argument"), "cannot look at files.*Invalid"),
        (Fake(read="y"), "does not keep files"),
        (Fake(fault=SandboxError("it did not come up")), "did not come up"),
    ],
)
async def test_what_does_not_work_is_said_and_nothing_stays(fake: Fake, why: str) -> None:
    with pytest.raises(SandboxError, match=why):
        await try_provider(fake)  # type: ignore[arg-type]  # as above
    assert fake.done[-1] == "forget"


async def test_a_trial_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "DEADLINE_S", 0.05)
    fake = Fake(bash="slow")
    with pytest.raises(SandboxError, match="longer than"):
        await try_provider(fake)  # type: ignore[arg-type]  # as above
    assert fake.done == ["destroy", "forget"]


async def test_it_can_be_asked_for_inside_a_loop_and_gives_a_finding() -> None:
    fakes: list[Fake] = []

    def make(folder: Path, fault: Exception | None = None) -> Fake:
        fakes.append(Fake(fault=fault))
        return fakes[-1]

    found = probe_for_real(make)  # type: ignore[arg-type]  # as above
    assert found.level is Level.OK
    assert "a sandbox of fake answered after" in found.what
    assert fakes[-1].done == ["start", "destroy", "forget", "aclose"]
    missing = SandboxUnavailable("no runc", "install it")
    found = probe_for_real(lambda folder: make(folder, missing))  # type: ignore[arg-type,return-value]  # as above
    assert (found.level, found.what, found.fix) == (Level.FAILURE, "no runc", "install it")
    found = probe_for_real(lambda folder: make(folder, SandboxError("died")))  # type: ignore[arg-type,return-value]  # as above
    assert found.level is Level.FAILURE
    assert "died" in found.what
    assert found.fix
