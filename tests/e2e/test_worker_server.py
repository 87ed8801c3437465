"""Our worker against our server, both real processes: killed in mid-tool, the job still ends."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from intramuros.execution.calls import INTERRUPTED
from intramuros.kernel.appendlog import read_lines
from intramuros.protocol.audit import verify
from tests.e2e.worker_process import WorkerProcess
from tests.hosts import needs_sandboxes
from tests.waiting import until as waited
from tests.wire.site import MESSAGE, Site, scripted, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

# Slow the first time it runs, quick once the file is there.
COMMAND = "test -e seen && echo again || { touch seen; sleep 60; echo slept; }"
SCRIPT = {
    "steps": [
        {"id": "run", "tools": [{"name": "bash", "input": {"command": COMMAND}}]},
        {"text": "It said ${word}.", "values": {"word": {"step": "run", "pattern": "again"}}},
    ]
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    needs_sandboxes()
    with scripted(tmp_path, SCRIPT) as made:
        yield made


async def test_killed_in_mid_tool_the_job_still_finishes(site: Site, tmp_path: Path) -> None:
    worker = WorkerProcess(
        *(site.server.base_url, site.environment_id, site.key, tmp_path), "--lease-ttl-s", "10"
    )
    session = await to_thread.run_sync(lambda: site.session("it", initial_events=[MESSAGE]))
    async with worker.run() as process:
        await waited(worker.workspace("seen", session.id).exists, 30)
        os.kill(process.pid, signal.SIGKILL)
        await to_thread.run_sync(process.wait)

    def answered() -> list[Any] | None:
        log = site.events(session.id)
        return log if any(event.type == "agent.message" for event in log) else None

    async with worker.run():
        log = await to_thread.run_sync(lambda: until(answered), abandon_on_cancel=True)
    calls = [event.id for event in log if event.type == "agent.tool_use"]
    results = [event for event in log if event.type == "user.tool_result"]
    assert [event.tool_use_id for event in results] == calls, "one result for each call, in order"
    # The first call that runs after the loss is told of it before its own text.
    texts = [event.content[-1].text.strip() for event in results]
    assert texts == [INTERRUPTED, "again"]
    assert [event.is_error for event in results] == [True, False]
    said = [event.content[0].text for event in log if event.type == "agent.message"]
    assert said == ["It said again."]
    verify(read_lines(worker.state / "audit.jsonl"))
