"""Sessions that are put away by one worker process and woken by another, as operators run them."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.config import clean_environment
from intramuros.protocol.audit import verify
from tests.e2e.worker_process import ROOT, WorkerProcess, commands_with
from tests.fakes.control_plane import ENVIRONMENT, KEY, ControlPlane, running
from tests.hosts import needs_sandboxes
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    needs_sandboxes()
    async with running(ControlPlane()) as plane:
        yield plane


def texts(result: dict[str, Any]) -> list[str]:
    return [str(block["text"]) for block in result["content"]]


def worker_of(plane: ControlPlane, folder: Path, name: str) -> WorkerProcess:
    (folder / name).mkdir()
    flags = ("--snapshots", str(folder / "shared"), "--freeze-after-s", "0.1")
    flags += ("--snapshot-key-file", str(folder / "keys.json"))
    return WorkerProcess(plane.base_url, ENVIRONMENT, KEY, folder / name, *flags)


async def cli(worker: WorkerProcess, *words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "intramuros.cli.main", *words, "--state-dir", str(worker.state)]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT / "src")}
    return await to_thread.run_sync(
        lambda: subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    )


async def test_a_session_moves_to_another_worker_and_reads_what_it_lost(
    plane: ControlPlane, tmp_path: Path
) -> None:
    a, b = worker_of(plane, tmp_path, "a"), worker_of(plane, tmp_path, "b")
    item, session = plane.offer(), plane.session()
    marker = f"33.{os.getpid()}"
    session.tool_use("bash", {"command": f"mkdir d; cd d; echo 1 > f; X=7; sleep {marker} &"})
    async with a.run() as process:
        await until(lambda: session.results)
        session.idle()
        await until(lambda: item.state == "stopped")
        assert commands_with(marker) == []
        os.kill(process.pid, signal.SIGKILL)
        # On a thread: the control plane learns meanwhile that who polled has hung up.
        await to_thread.run_sync(process.wait)
    plane.requeue(item)
    second = session.tool_use("bash", {"command": "pwd; cat f; echo $X"})
    async with b.run():
        await until(lambda: len(session.results) == 2)
        notice, answer = texts(session.result_of(second))
        assert f"sleep {marker}" in notice
        assert answer == "/workspace/d\n1\n7"
        third = session.tool_use("bash", {"command": "echo again"})
        await until(lambda: len(session.results) == 3)
        assert texts(session.result_of(third)) == ["again"]
        session.idle()
        await until(lambda: item.state == "stopped")
    for worker in (a, b):
        verify(read_lines(worker.state / "audit.jsonl"))
    kinds = [
        line.split('"kind":"')[1].split('"')[0] for line in read_lines(b.state / "audit.jsonl")
    ]
    assert kinds.index("sandbox.wake") < kinds.index("tool.result")
    assert kinds.index("snapshot.create") < kinds.index("sandbox.away")


async def test_operators_pause_snapshot_fork_and_restore(
    plane: ControlPlane, tmp_path: Path
) -> None:
    worker = worker_of(plane, tmp_path, "a")
    item, session = plane.offer(), plane.session()
    session.tool_use("bash", {"command": "echo 1 > f; sleep 600 &"})
    async with worker.run():
        await until(lambda: session.results)
        made = await cli(worker, "snapshot", "create", "sesn_1", "--name", "first")
        assert (made.returncode, "sleep 600" in made.stderr) == (0, True)
        snapshot_id = made.stdout.strip()
        session.tool_use("bash", {"command": "echo 2 > f"})
        await until(lambda: len(session.results) == 2)
        paused = await cli(worker, "session", "pause", "sesn_1")
        assert paused.returncode == 0, paused.stderr
        assert not worker.workspace("f").exists()
        refused = await cli(worker, "session", "pause", "sesn_1", "--level", "full")
        assert (refused.returncode, "live processes cannot" in refused.stderr) == (1, True)
        third = session.tool_use("bash", {"command": "cat f"})
        await until(lambda: len(session.results) == 3)
        assert texts(session.result_of(third))[-1] == "2"
        assert (await cli(worker, "snapshot", "restore", snapshot_id)).returncode == 0
        fourth = session.tool_use("bash", {"command": "cat f"})
        await until(lambda: len(session.results) == 4)
        assert texts(session.result_of(fourth))[-1] == "1"
        listed = await cli(worker, "snapshot", "list")
        assert "\tfirst" in listed.stdout
        session.idle()
        await until(lambda: item.state == "stopped")
    kinds = [
        line.split('"kind":"')[1].split('"')[0] for line in read_lines(worker.state / "audit.jsonl")
    ]
    for kind in ("desk.create", "desk.pause", "desk.restore", "sandbox.wake", "sandbox.away"):
        assert kind in kinds
    verify(read_lines(worker.state / "audit.jsonl"))
