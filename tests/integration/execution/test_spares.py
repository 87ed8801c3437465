"""Sandboxes started ahead: nobody's, then one session's, never again anybody else's."""

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from intramuros.execution.conformance.battery import Battery
from intramuros.execution.sandbox import processes
from intramuros.execution.sandbox.base import (
    Mount,
    SandboxBusy,
    SandboxError,
    SandboxSpec,
)
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.cgroups import find_groups
from intramuros.execution.sandbox.live import LiveSandbox
from intramuros.execution.sandbox.records import identify
from tests.drives import Workspace
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
SPEC = SandboxSpec()


def said(outcome) -> str:
    return outcome.content[0]["text"]


def rest_of(state: Path) -> list[str]:
    """What spares have on the host."""
    found = [*(state / "spares/records").iterdir(), *(state / "spares/workspaces").iterdir()]
    return sorted(path.name for path in found)


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


async def test_it_becomes_a_session_s_with_workspace_variables_and_limits(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    spare = await provider.prepare(SPEC)
    name = spare.name
    assert [part.removesuffix(".img") for part in rest_of(tmp_path / "state")] == [
        name,
        f"{name}.json",
    ]
    variables = {"KEY": "it's a $(placeholder) `x`\nline 2", "odd-name": "1", "LANG": ""}
    for environment in (variables, {"KEY": variables["KEY"]}):
        session = f"sesn_{len(environment)}"
        sandbox = await provider.adopt(spare, SandboxSpec(environment=environment), session)
        assert sandbox is not None and sandbox.sandbox_id == session
        script = 'printf %s "$KEY"; echo "|$LANG|$PWD"; echo mine >f; id -u'
        outcome = said(await sandbox.call("bash", {"command": script}))
        lang = environment.get("LANG", "C.UTF-8")
        assert outcome == f"{variables['KEY']}|{lang}|/workspace\nmine\n1000".replace("mine\n", "")
        shown = await sandbox.exec(["/usr/bin/env"])
        assert b"KEY=it's a" in shown.stdout
        assert Workspace(tmp_path / "state/workspaces", session, "f").read_text() == "mine\n"
        assert rest_of(tmp_path / "state") == []
        # It is spent, whatever is asked.
        assert await provider.adopt(spare, SPEC, "sesn_other") is None
        await sandbox.destroy()
        assert not spare.shell.alive
        spare = await provider.prepare(SPEC)
    await spare.shell.destroy()
    assert rest_of(tmp_path / "state") == []


async def test_what_its_session_has_mounted_comes_with_adoption(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    for folder in ("uploads", "outputs", "skills"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f").write_text(folder)
    (tmp_path / "one").write_text("a file")
    mounts = (
        Mount(tmp_path / "uploads", "/mnt/session/uploads"),
        Mount(tmp_path / "outputs", "/mnt/session/outputs", read_only=False, owned=True),
        Mount(tmp_path / "skills", "/workspace/skills"),
        Mount(tmp_path / "one", "/mnt/one"),
    )
    spare = await provider.prepare(SPEC)
    sandbox = await provider.adopt(spare, SandboxSpec(mounts=mounts), "sesn_1")
    assert sandbox is not None
    script = (
        "cat /mnt/session/uploads/f /workspace/skills/f /mnt/one; echo made >/mnt/session/outputs/g"
        "; for p in /mnt/session/uploads /workspace/skills /mnt /; do touch $p/x 2>&1; done"
        "; grep -c nosuid,nodev /proc/self/mountinfo >/dev/null; rm -f /mnt/one; ls /mnt"
    )
    told = said(await sandbox.call("bash", {"command": script}))
    assert told.startswith("uploadsskillsa file")
    assert told.count("Read-only file system") == 5
    assert told.endswith("one\nsession")
    assert (tmp_path / "outputs/g").read_text() == "made\n"
    # The file tools know them, too.
    outcome = await sandbox.call("read", {"file_path": "/mnt/session/uploads/f"})
    assert said(outcome) == "uploads"
    for target in ("/mnt/session/uploads/f", "/workspace/skills/f"):
        refused = await sandbox.call("write", {"file_path": target, "content": "x"})
        assert "read-only directory" in said(refused)
    # The next sandbox of the session is made over what this one left, by the same user.
    await sandbox.destroy()
    again = await provider.create(SPEC, "sesn_1")
    assert said(await again.call("bash", {"command": "stat -c %u . && touch y"})) == "1000"


async def test_another_kind_and_a_session_that_has_a_workspace_get_none(
    provider: BubblewrapProvider,
) -> None:
    spare = await provider.prepare(SPEC)
    assert await provider.adopt(spare, SandboxSpec(egress="names"), "sesn_1") is None
    first = await provider.create(SPEC, "sesn_1")
    with pytest.raises(SandboxBusy):
        await provider.adopt(spare, SPEC, "sesn_1")
    await first.call("bash", {"command": "echo kept >f"})
    await first.destroy()
    assert await provider.adopt(spare, SPEC, "sesn_1") is None
    with pytest.raises(SandboxError, match="reserved"):
        await provider.adopt(spare, SandboxSpec(mounts=(Mount(Path("/usr"), "/proc"),)), "sesn_2")
    with pytest.raises(ValueError, match="sandbox id"):
        await provider.adopt(spare, SPEC, "../x")
    assert spare.shell.alive
    assert await provider.adopt(spare, SPEC, "sesn_2") is not None


async def test_a_spare_that_died_is_not_adopted(provider: BubblewrapProvider) -> None:
    spare = await provider.prepare(SPEC)
    inner = processes.first_child(provider._spares.live[spare.name].host_pid)
    assert inner
    os.kill(inner, signal.SIGKILL)
    await until(lambda: not spare.shell.alive)
    assert await provider.adopt(spare, SPEC, "sesn_1") is None


async def test_mounts_that_cannot_be_shown_leave_nothing_of_the_spare(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    spare = await provider.prepare(SPEC)
    (tmp_path / "source").mkdir()
    # Its parent is a file inside.
    wrong = SandboxSpec(mounts=(Mount(tmp_path / "source", "/bin/sh/x"),))
    with pytest.raises(SandboxError, match="cannot be given its mounts"):
        await provider.adopt(spare, wrong, "sesn_1")
    assert not spare.shell.alive
    assert rest_of(tmp_path / "state") == []
    assert list((tmp_path / "state/workspaces").iterdir()) == []
    assert list((tmp_path / "state/sandboxes").iterdir()) == []
    for parent in find_groups().parents.values():
        assert list(parent.glob(f"intramuros-*-{spare.name}")) == []
    # From now on only what needs no mounts comes from spares.
    another = await provider.prepare(SPEC)
    fine = SandboxSpec(mounts=(Mount(tmp_path / "source", "/mnt/x"),))
    assert await provider.adopt(another, fine, "sesn_1") is None
    assert await provider.adopt(another, SPEC, "sesn_1") is not None


async def test_each_has_a_user_of_its_own(provider: BubblewrapProvider) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give each sandbox a user id of its own")
    spares = [await provider.prepare(SPEC) for _ in range(3)]
    uids = {provider._uids[spare.name] for spare in spares}
    assert len(uids) == 3 and 0 not in uids
    taken = await provider.adopt(spares[0], SPEC, "sesn_1")
    assert taken is not None
    assert provider._uids["sesn_1"] in uids


WORKER = """
import sys, anyio
from pathlib import Path
from intramuros.execution.sandbox.base import SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.kernel.telemetry import configure
async def main():
    configure(json=True)
    provider = BubblewrapProvider(Path(sys.argv[1]))
    spares = [await provider.prepare(SandboxSpec()) for _ in range(2)]
    sandbox = await provider.adopt(spares[0], SandboxSpec(), "sesn_orphan")
    await sandbox.call("write", {"file_path": "kept", "content": "kept"})
    other = provider._spares.live[spares[1].name]
    print(sandbox.host_pid, other.host_pid, flush=True)
    await anyio.sleep_forever()
anyio.run(main)
"""


async def test_a_killed_worker_s_spares_are_swept_and_its_sessions_kept(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", WORKER, str(tmp_path / "state")]
    env = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env) as worker:  # noqa: ASYNC220 - must die without us
        assert worker.stdout
        line = await anyio.to_thread.run_sync(worker.stdout.readline)
        outer = [int(word) for word in line.split()]
        assert len(outer) == 2
        assert await provider.sweep() == []
        assert len(rest_of(tmp_path / "state")) == 2
        worker.kill()
    await until(lambda: not any(identify(pid) for pid in outer))
    swept = await provider.sweep()
    assert swept[0] == "sesn_orphan" and len(swept) == 2
    assert rest_of(tmp_path / "state") == []
    again = await provider.create(SPEC, "sesn_orphan")
    assert said(await again.call("read", {"file_path": "kept"})) == "kept"


class Ahead(BubblewrapProvider):
    """Every sandbox of it was a spare."""

    async def create(self, spec: SandboxSpec, sandbox_id: str) -> LiveSandbox:
        adopted = await self.adopt(await self.prepare(spec), spec, sandbox_id)
        return await super().create(spec, sandbox_id) if adopted is None else adopted


@pytest.mark.usefixtures("working_host")
async def test_what_was_a_spare_holds_as_well_as_any(tmp_path: Path) -> None:
    provider = Ahead(tmp_path / "state")
    await provider.start()
    try:
        found = [one async for one in Battery(provider, "no-such-canary").run()]
    finally:
        await provider.aclose()
    assert [one for one in found if not one.passed] == []
    assert len(found) > 140
    assert rest_of(tmp_path / "state") == []


async def test_a_preparation_given_up_leaves_nothing(
    provider: BubblewrapProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other workers of this host have spares as well.
    mine = secrets.token_hex(8)
    monkeypatch.setattr(secrets, "token_hex", lambda _size: mine)
    for step in range(8):
        with anyio.move_on_after(step * 0.005):
            await (await provider.prepare(SPEC)).shell.destroy()
    assert rest_of(tmp_path / "state") == []
    for parent in find_groups().parents.values():
        assert not (parent / f"intramuros-spare-{mine}").exists()


@pytest.mark.usefixtures("working_host")
async def test_a_preparation_given_up_while_it_warms_closes_what_it_opened(
    provider: BubblewrapProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await provider.prepare(SPEC)).shell.destroy()
    before = descriptors()
    warming: list[LiveSandbox] = []

    async def warm(sandbox: LiveSandbox) -> None:
        warming.append(sandbox)
        scope.cancel()
        await anyio.sleep_forever()

    monkeypatch.setattr(LiveSandbox, "warm", warm)
    with anyio.CancelScope() as scope:
        await provider.prepare(SPEC)
    assert scope.cancelled_caught
    assert not warming[0].alive and warming[0].handles.channel.closed
    assert descriptors() == before
    assert rest_of(tmp_path / "state") == []
