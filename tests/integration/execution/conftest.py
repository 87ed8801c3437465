"""Real sandboxes for the tests of this folder; skipped, with the reason, where none can be made."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.live import LiveSandbox
from tests.fakes.control_plane import ControlPlane, running
from tests.fakes.sandbox import FakeProvider
from tests.fakes.worker import Rig
from tests.hosts import needs_sandboxes


@pytest.fixture(scope="session")
def working_host() -> None:
    needs_sandboxes()


@pytest.fixture
async def provider(working_host: None, tmp_path: Path) -> AsyncIterator[BubblewrapProvider]:
    made = BubblewrapProvider(tmp_path / "state")
    await made.start()
    yield made
    await made.aclose()


class Undriven(BubblewrapProvider):
    """What an ordinary user gets, whoever runs the tests: workspaces are directories, watched."""

    separate = False


@pytest.fixture
async def undriven(working_host: None, tmp_path: Path) -> AsyncIterator[BubblewrapProvider]:
    made = Undriven(tmp_path / "state")
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
async def sandbox(provider: BubblewrapProvider) -> LiveSandbox:
    return await provider.create(SandboxSpec(), "sesn_test")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(ControlPlane()) as plane:
        yield Rig(plane, FakeProvider(), tmp_path)
