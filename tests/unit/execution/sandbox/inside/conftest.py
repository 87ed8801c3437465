"""Process 1's parts on the host: real pipes and children, the test's own signal handlers kept."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside.loop import Loop
from intramuros.execution.sandbox.inside.paths import Policy
from intramuros.execution.sandbox.inside.spawn import Spawner


@pytest.fixture
def loop() -> Iterator[Loop]:
    before = signal.getsignal(signal.SIGCHLD)
    made = Loop()
    yield made
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, before)
    made.close()


@pytest.fixture
def spawner() -> Spawner:
    return Spawner(1024, lambda _wanted: None)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    made = tmp_path.resolve() / "work"
    made.mkdir()
    return made


@pytest.fixture
def policy(workdir: Path) -> Policy:
    shared, store = workdir.parent / "shared", workdir.parent / "store"
    shared.mkdir()
    store.mkdir()
    return Policy(str(workdir), [str(shared), str(store)], [str(store)])


@pytest.fixture
def links_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open as gVisor does: O_DIRECTORY makes it forget O_NOFOLLOW (google/gvisor#14786)."""
    really = os.open

    def forgetful(
        path: str | bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        if flags & os.O_DIRECTORY and not flags & os.O_PATH:
            flags &= ~os.O_NOFOLLOW
        return really(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", forgetful)
