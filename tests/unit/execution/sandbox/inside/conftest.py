"""Process 1's parts on the host: real pipes and children, the test's own signal handlers kept."""

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
