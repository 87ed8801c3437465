"""A worker process killed between a file and its sync: the next one takes up all that it left."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from intramuros.cli.crossing import checked, crossings, totals
from intramuros.kernel.appendlog import read_lines
from tests.e2e.worker_process import WorkerProcess, commands_with
from tests.hosts import needs_sandboxes
from tests.waiting import until as waited
from tests.wire.site import MESSAGE, Site, scripted, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

NOTES = "/mnt/memory/intramuros-wire-notes"
MARKER = f"61.{os.getpid()}"
# It writes, and hangs the first time: nothing that it wrote has been sent when it is killed.
COMMAND = (
    "test -e seen && echo again || "
    f"{{ T=ghp_$$(printf 'a%.0s' $$(seq 36)); echo key=$$T > {NOTES}/note.md; "
    f"(sleep {MARKER} &) ; touch seen; sleep {MARKER}; }}"
)
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


async def test_what_a_killed_worker_left_is_sent_masked_and_nothing_of_it_runs(
    site: Site, tmp_path: Path
) -> None:
    memories = site.api.beta.memory_stores
    store = memories.create(name="intramuros-wire-notes").id
    worker = WorkerProcess(
        *(site.server.base_url, site.environment_id, site.key, tmp_path), "--lease-ttl-s", "10"
    )
    resource: Any = {"type": "memory_store", "memory_store_id": store}
    session = await to_thread.run_sync(
        lambda: site.session("it", initial_events=[MESSAGE], resources=[resource])
    )
    async with worker.run() as process:
        await waited(worker.workspace("seen", session.id).exists, 30)
        os.kill(process.pid, signal.SIGKILL)
        await to_thread.run_sync(process.wait)
    assert [m for m in memories.memories.list(store) if m.type == "memory"] == []
    async with worker.run():

        def remembered() -> Any:
            listed = memories.memories.list(store, view="full")
            return next((m for m in listed if m.type == "memory"), None)

        note = await to_thread.run_sync(until, remembered, 40.0)
        assert note.content == "key=[masked github token]\n"
        assert commands_with(MARKER) == []
        await to_thread.run_sync(lambda: site.wait(session.id, "agent.message"))
    records, _ = checked(read_lines(worker.state / "audit.jsonl"))
    found = crossings("worker", records, session.id)
    rows = [(total.direction, total.rule, total.count) for total in totals(found)]
    assert ("out", "memory write", 1) in rows
    assert ("found", "github token", 1) in rows
