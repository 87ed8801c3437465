"""A sandbox that fails between its process's start and its first answer leaves nothing behind."""

import os
from pathlib import Path

import anyio
import pytest

from intramuros.execution.sandbox import bubblewrap
from intramuros.execution.sandbox.base import SandboxError, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.cgroups import Groups
from intramuros.execution.sandbox.providers import open_provider
from intramuros.execution.sandbox.records import Record, is_alive
from tests.integration.execution.runtimes import CONTAINERS, require
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


def held() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def left(record: Record) -> list[str]:
    return [path for path in record.cgroups if Path(path).exists()]


class Full:
    """A directory of records on a disk that takes one more of them than ``room``."""

    def __init__(self, provider: BubblewrapProvider, room: int) -> None:
        self.seen: list[Record] = []
        self._records = provider._records
        self._save = provider._records.save
        self._room = room

    def save(self, record: Record) -> None:
        self.seen.append(record)
        if len(self.seen) > self._room:
            raise SandboxError("cannot note down the sandbox (No space left on device)")
        self._save(record)


async def _opened(name: str, tmp_path: Path) -> BubblewrapProvider:
    made = open_provider(await anyio.to_thread.run_sync(require, name), tmp_path / "state")
    assert isinstance(made, BubblewrapProvider)
    await made.start()
    return made


@pytest.mark.parametrize("room", [0, 1])
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("name", ["bubblewrap", "process", *CONTAINERS])
async def test_a_record_that_cannot_be_written_leaves_nothing(
    name: str, grouped: bool, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not grouped:
        monkeypatch.setattr(bubblewrap, "find_groups", lambda: Groups(0))
    provider = await _opened(name, tmp_path)
    session = f"sesn-{os.getpid()}-birth"
    try:
        warm = await provider.create(SandboxSpec(), session)  # the launcher has its socket now
        await warm.destroy()
        before = held()
        full = Full(provider, room)
        with monkeypatch.context() as patch:
            patch.setattr(provider._records, "save", full.save)
            with pytest.raises(SandboxError, match="cannot note down"):
                await provider.create(SandboxSpec(), session)
        outer = full.seen[-1].outer
        assert (outer is not None) == bool(room)
        await until(lambda: outer is None or not is_alive(outer))
        # A helper may still be writing to the control groups' files.
        await until(lambda: held() == before)
        assert not left(full.seen[0])
        assert bool(full.seen[0].cgroups) == bool(grouped and provider._host.groups.parents)
        assert not list((tmp_path / "state/sandboxes").iterdir())
        assert not provider._workspaces._open and not provider._uids
        again = await provider.create(SandboxSpec(), session)
        assert again.alive
    finally:
        await provider.aclose()


async def test_spares_of_a_full_disk_are_tried_again_not_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await _opened("bubblewrap", tmp_path)
    try:
        await (await provider.prepare(SandboxSpec())).shell.destroy(keep_workspace=False)
        before = held()

        def replace(self: Path, target: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            with pytest.raises(SandboxError, match="No space left on device"):
                await provider.prepare(SandboxSpec())
        await until(lambda: held() == before)
        assert not list((tmp_path / "state/spares/records").iterdir())
    finally:
        await provider.aclose()
