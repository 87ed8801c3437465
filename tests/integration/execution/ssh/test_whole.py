"""``intramuros ssh`` into the sandbox of a session that a real worker serves."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from tests.fakes.control_plane import ControlPlane, running
from tests.fakes.worker import Rig, stopped
from tests.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        shutil.which("ssh") is None, reason="NO SSH CLIENT: apt install openssh-client"
    ),
]


@pytest.fixture
async def rig(working_host: None, tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(ControlPlane()) as plane:
        provider = BubblewrapProvider(tmp_path / "state" / "sandboxes")
        yield Rig(plane, provider, tmp_path)  # type: ignore[arg-type]  # as good as the fake one


async def ssh(rig: Rig, *arguments: str) -> "subprocess.CompletedProcess[str]":
    state = str(rig.settings.state_dir)
    argv = [sys.executable, "-m", "intramuros.cli.main", "ssh", "--state-dir", state]
    env = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"}

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*argv, *arguments], env=env, capture_output=True, text=True, timeout=40, check=False
        )

    return await to_thread.run_sync(run)


async def test_a_person_looks_at_what_the_agent_left_and_holds_the_session(rig: Rig) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    session.tool_use("bash", {"command": "echo of the agent >note"})
    results = []
    async with rig.worker(ssh_listen="unix", warm_max=1, max_idle_s=0.5):
        await until(lambda: bool(session.results))
        async with anyio.create_task_group() as group:

            async def look() -> None:
                script = "cat note; sleep 1.5; echo still here"
                results.append(await ssh(rig, session.session_id, script))

            group.start_soon(look)
            await until(lambda: "ssh.run" in rig.kinds())
            # It may be idle for less than what is looked at takes; but somebody is there.
            session.idle()
        assert results[0].returncode == 0, results[0].stderr
        assert results[0].stdout == "of the agent\nstill here\n"
        await stopped(item)
        late = await ssh(rig, session.session_id, "true")
        assert late.returncode == 69
    kinds = rig.kinds()
    assert kinds.index("tool.result") < kinds.index("ssh.open") < kinds.index("ssh.close")
    [opened] = [one["fields"] for one in rig.audit() if one["kind"] == "ssh.open"][:1]
    assert opened["session_id"] == session.session_id
    assert "on the worker's host" in opened["who"]
    gone = await ssh(rig, session.session_id, "true")
    assert gone.returncode != 0
    assert "not running, or lets nobody in" in gone.stderr


@pytest.mark.parametrize("end", ["interrupt", "archive", "drain"])
async def test_whoever_is_inside_leaves_when_the_session_is_stopped(rig: Rig, end: str) -> None:
    rig.plane.offer()
    session = rig.plane.session()
    session.emit("session.status_running")
    session.tool_use("bash", {"command": "true"})
    results = []
    async with rig.worker(ssh_listen="unix", warm_max=0) as stop:
        await until(lambda: bool(session.results))
        async with anyio.create_task_group() as group:

            async def stay() -> None:
                results.append(await ssh(rig, session.session_id, "echo in; exec sleep 500"))

            group.start_soon(stay)
            await until(lambda: "ssh.run" in rig.kinds())
            if end == "interrupt":
                session.emit("user.interrupt")
            elif end == "archive":
                session.emit("session.status_terminated")
            else:
                stop.request()
            with anyio.fail_after(60):
                await until(lambda: bool(results))
    assert results[0].returncode == 255
    whys = [one["fields"]["why"] for one in rig.audit() if one["kind"] == "ssh.close"]
    expected = {
        "interrupt": "the session was interrupted",
        "archive": "the sandbox ends",
        "drain": "the worker stops",
    }
    assert whys == [expected[end]]
