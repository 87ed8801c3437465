"""A worker process with real sandboxes, killed where it hurts: every call gets one result."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from intramuros.execution.calls import INTERRUPTED
from intramuros.kernel.appendlog import read_lines
from intramuros.protocol.audit import verify
from tests.e2e.worker_process import WorkerProcess, commands_with
from tests.fakes.control_plane import ENVIRONMENT, KEY, ControlPlane, running
from tests.hosts import needs_sandboxes
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    needs_sandboxes()
    async with running(ControlPlane()) as plane:
        yield plane


def said(result: dict[str, Any]) -> str:
    return str(result["content"][-1]["text"])


async def test_killed_in_mid_tool_the_next_worker_reports_and_goes_on(
    plane: ControlPlane, tmp_path: Path
) -> None:
    worker, item, session = (
        WorkerProcess(plane.base_url, ENVIRONMENT, KEY, tmp_path),
        plane.offer(),
        plane.session(),
    )
    marker = f"31.{os.getpid()}"
    first = session.tool_use("bash", {"command": f"echo ran >> log; sleep {marker}; echo end"})
    async with worker.run() as process:
        await until(lambda: worker.workspace("log").exists())
        os.kill(process.pid, signal.SIGKILL)
        await to_thread.run_sync(process.wait)
    assert session.results == []
    plane.requeue(item)
    async with worker.run():
        await until(lambda: session.results)
        assert commands_with(marker) == []
        second = session.tool_use("bash", {"command": "cat log"})
        await until(lambda: len(session.results) == 2)
        session.idle()
        await until(lambda: item.state == "stopped")
    assert (said(session.result_of(first)), session.result_of(first)["is_error"]) == (
        INTERRUPTED,
        True,
    )
    assert said(session.result_of(second)).strip() == "ran"
    verify(read_lines(worker.state / "audit.jsonl"))


async def test_killed_before_the_post_the_result_comes_from_the_journal(
    plane: ControlPlane, tmp_path: Path
) -> None:
    worker, item, session = (
        WorkerProcess(plane.base_url, ENVIRONMENT, KEY, tmp_path),
        plane.offer(),
        plane.session(),
    )
    call = session.tool_use("bash", {"command": "echo ran >> log; wc -l < log"})
    plane.fail("post", 503, times=1000)
    async with worker.run() as process:
        await until(lambda: plane.count("post"))
        os.kill(process.pid, signal.SIGKILL)
        await to_thread.run_sync(process.wait)
    assert session.results == []
    plane.recover("post")
    plane.requeue(item)
    async with worker.run():
        await until(lambda: session.results)
        session.idle()
        await until(lambda: item.state == "stopped")
    assert (said(session.result_of(call)).strip(), session.result_of(call)["is_error"]) == (
        "1",
        False,
    )
    assert worker.workspace("log").read_text() == "ran\n"
    verify(read_lines(worker.state / "audit.jsonl"))


async def test_one_signal_drains_and_two_stop_now(plane: ControlPlane, tmp_path: Path) -> None:
    worker, item, session = (
        WorkerProcess(plane.base_url, ENVIRONMENT, KEY, tmp_path),
        plane.offer(),
        plane.session(),
    )
    session.tool_use("bash", {"command": "touch begun; sleep 0.5; echo finished"})
    async with worker.run() as process:
        await until(lambda: worker.workspace("begun").exists())
        process.send_signal(signal.SIGTERM)
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0, worker.log.read_text()
    assert [said(result).strip() for result in session.results] == ["finished"]
    marker = f"32.{os.getpid()}"
    plane.requeue(item)
    session.tool_use("bash", {"command": f"ls begun && touch again; sleep {marker}"})
    async with worker.run() as process:
        await until(lambda: worker.workspace("again").exists())
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None)
    assert len(session.results) == 1
    assert commands_with(marker) == []
