"""Hard quotas: what code inside meets at the limit, and what a killed worker leaves mounted."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from intramuros.execution.sandbox.base import MIB, Limits, Provider, Sandbox, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.providers import open_provider
from intramuros.execution.sandbox.spares import Sparing
from tests.drives import Workspace
from tests.integration.execution.runtimes import CONTAINERS, require
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

SMALL = SandboxSpec(limits=Limits(disk_bytes=16 * MIB))
FILL = "for n in $(seq 40); do head -c 1048576 /dev/zero >b$n || break; done"
FILES = """python3 -c '
import os
made = 0
try:
    while made < 100000:
        os.close(os.open(f"f{made}", os.O_CREAT | os.O_WRONLY)); made += 1
except OSError as error:
    print(error.strerror)'"""
# A file that has no name any more, and one that only a mapping keeps.
NAMELESS = """python3 -c '
import mmap, os
held = []
try:
    for n in range(40):
        file = open("u", "w+b"); os.unlink("u"); file.write(bytes(1 << 20)); file.flush()
        held.append(mmap.mmap(file.fileno(), 1 << 20)); file.close()
except OSError as error:
    print(error.strerror)'"""
DEEP = """python3 -c '
import os
for _ in range(2000): os.mkdir("d"); os.chdir("d")
try:
    open("x", "wb").write(bytes(20 << 20))
except OSError as error:
    print(error.strerror)'"""


def name_of(number: int = 0) -> str:
    return f"sesn-{os.getpid()}-{number}"


@pytest.fixture(params=["bubblewrap", *CONTAINERS])
async def driven(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provider]:
    full = await anyio.to_thread.run_sync(require, request.param)
    made = open_provider(full, tmp_path / "state")
    if made.capabilities.disk_quota != "hard":
        pytest.skip(f"no hard quota here: {made.probe()[-1].what}")
    await made.start()
    yield made
    await made.aclose()


async def said(sandbox: Sandbox, command: str) -> str:
    outcome = await sandbox.call("bash", {"command": f"cd /workspace; {command}"})
    return str(outcome.content[0]["text"])


async def test_the_kernel_says_no_and_the_sandbox_goes_on(driven: Provider) -> None:
    sandbox = await driven.create(SMALL, name_of())
    neighbour = await driven.create(SMALL, name_of(1))
    assert "No space left on device" in await said(sandbox, FILL)
    refused = await sandbox.call("write", {"file_path": "more", "content": "x" * 2_000_000})
    assert refused.is_error
    assert "no space left on device" in refused.content[0]["text"]
    written = await neighbour.call("write", {"file_path": "more", "content": "x" * 2_000_000})
    assert not written.is_error, "a neighbour has its own"
    assert await said(sandbox, "rm b*; echo kept >k; cat k") == "kept"
    assert "No space left on device" in await said(sandbox, FILES)
    assert await said(sandbox, "find . -name 'f*' -delete; cat k") == "kept"
    await sandbox.destroy()
    again = await driven.create(SMALL, name_of())
    assert await said(again, "cat k") == "kept"
    assert again.alive and neighbour.alive


@pytest.mark.parametrize("script", [NAMELESS, DEEP])
async def test_no_hiding_place_is_larger(provider: BubblewrapProvider, script: str) -> None:
    if provider.capabilities.disk_quota != "hard":
        pytest.skip("no hard quota here")
    sandbox = await provider.create(SMALL, name_of())
    assert "No space left on device" in await said(sandbox, f"({script}) 2>&1")
    assert await said(sandbox, "echo on") == "on"
    await sandbox.destroy()
    await provider.forget(name_of())


async def test_nothing_is_mounted_on_the_host_and_nothing_stays_attached(
    driven: Provider, tmp_path: Path
) -> None:
    before = mounts()
    sandbox = await driven.create(SMALL, name_of())
    image = tmp_path / "state/workspaces" / f"{name_of()}.img"
    assert attached(image)
    assert mounts() == before
    shown = await sandbox.exec(["/bin/sh", "-c", "ls -a /workspace; ls /dev"])
    assert b"lost+found" not in shown.stdout and b"loop" not in shown.stdout
    await sandbox.destroy()
    await until(lambda: not attached(image))
    await driven.forget(name_of())
    assert not image.exists()


async def test_one_that_cannot_be_made_gives_its_drive_back(
    provider: BubblewrapProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    if provider.capabilities.disk_quota != "hard":
        pytest.skip("no hard quota here")

    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(BubblewrapProvider, "_make_group", refuse)
        with pytest.raises(OSError, match="Cannot allocate"):
            await provider.create(SMALL, name_of())
    image = provider._state / "workspaces" / f"{name_of()}.img"
    assert image.exists()
    await until(lambda: not attached(image), 30)
    assert provider._uids == {}
    sandbox = await provider.create(SMALL, name_of())
    assert await said(sandbox, "echo on") == "on"


async def test_a_spare_takes_its_drive_along(driven: Provider, tmp_path: Path) -> None:
    assert isinstance(driven, Sparing)
    spare = await driven.prepare(SMALL)
    sandbox = await driven.adopt(spare, replace(SMALL, environment={"A": "b"}), name_of())
    assert sandbox is not None
    assert "No space left on device" in await said(sandbox, f"echo $A >k; {FILL}")
    await said(sandbox, "rm b*")
    await sandbox.destroy()
    assert Workspace(tmp_path / "state/workspaces", name_of(), "k").read_text() == "b\n"
    again = await driven.create(SMALL, name_of())
    assert await said(again, "cat k") == "b"


WORKER = """
import anyio, os, signal, sys
from pathlib import Path
from intramuros.execution.sandbox.base import Limits, SandboxSpec
from intramuros.execution.sandbox.providers import open_provider

async def main():
    made = open_provider(sys.argv[1], Path(sys.argv[2]))
    await made.start()
    spec = SandboxSpec(limits=Limits(disk_bytes=16 << 20))
    for number, name in enumerate(sys.argv[3:]):
        sandbox = await made.create(spec, name)
        busy = "(while :; do date >busy; done) >/dev/null 2>&1 &"
        script = f"cd /workspace; echo {number} >k; {busy}"
        await sandbox.call("bash", {"command": script})
    await sandbox.pause()
    print("ready", flush=True)
    await anyio.sleep(60)

anyio.run(main)
"""


@pytest.mark.parametrize("moment", ["whenever", "when all stand"])
async def test_after_a_kill_nothing_is_left_and_everything_kept(
    provider: BubblewrapProvider, tmp_path: Path, moment: str
) -> None:
    if provider.capabilities.disk_quota != "hard":
        pytest.skip("no hard quota here")
    names = [name_of(number) for number in range(3)]
    state = tmp_path / "other"
    with start(provider.name, state, names) as worker:
        if moment == "when all stand":
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
        else:
            await until(lambda: any((state / "workspaces").glob("*.img")))
        worker.send_signal(signal.SIGKILL)
    heir = open_provider(provider.name, state)
    await heir.start()
    await heir.sweep()
    images = [state / "workspaces" / f"{name}.img" for name in names]
    await until(lambda: not any(map(attached, images)))
    assert str(state) not in mounts()
    for number, name in enumerate(names):
        sandbox = await heir.create(SMALL, name)
        kept = await said(sandbox, "cat k 2>/dev/null || echo none")
        assert kept == (str(number) if moment == "when all stand" else kept)
        assert await said(sandbox, "echo on >on; cat on") == "on"
    await heir.aclose()


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def start(provider: str, state: Path, names: list[str]) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", WORKER, provider, str(state), *names]
    return subprocess.Popen(argv, stdout=subprocess.PIPE)


def attached(image: Path) -> bool:
    """Return whether some loop device has the file."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().strip() == str(image):
                return True
        except OSError:
            continue
    return False
