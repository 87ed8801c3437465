"""Memory stores mounted by the official worker and by ours, against our server."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from intramuros.kernel.appendlog import read_lines
from tests.wire.memory import paths
from tests.wire.site import MESSAGE, Site, until
from tests.wire.test_environment_worker import official, ours

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

MOUNTS = Path("/mnt/memory")
NOTES, RULES = "intramuros-wire-notes", "intramuros-wire-rules"

Worker = Callable[[Site, Path], AbstractAsyncContextManager[Path]]


@pytest.fixture
def mounts() -> Iterator[None]:
    """The official worker has no sandbox: it mounts where the path says, on this very host."""
    if not os.access(MOUNTS if MOUNTS.exists() else MOUNTS.parent, os.W_OK):
        pytest.skip(f"the official worker needs to write {MOUNTS}: run as root")
    made = not MOUNTS.exists()
    for name in (NOTES, RULES):
        shutil.rmtree(MOUNTS / name, ignore_errors=True)
    yield
    if made:
        MOUNTS.rmdir()


class Job:
    """A session with two stores, one of them read-only."""

    def __init__(self, site: Site) -> None:
        self.site = site
        stores = site.api.beta.memory_stores
        self.notes, self.rules = (stores.create(name=name).id for name in (NOTES, RULES))
        for store, path, content in (
            (self.notes, "/plan.md", "plan one\n"),
            (self.notes, "/old.md", "old\n"),
            (self.notes, "/many/a.md", ""),
            (self.rules, "/rule.md", "be kind\n"),
        ):
            stores.memories.create(store, path=path, content=content)
        resources: Any = [
            {"type": "memory_store", "memory_store_id": self.notes},
            {"type": "memory_store", "memory_store_id": self.rules, "access": "read_only"},
        ]
        session = site.session("memory", resources=resources, initial_events=[MESSAGE])
        self.session_id = session.id

    def ended(self) -> bool | None:
        items = list(self.site.worker.beta.environments.work.list(self.site.environment_id))
        return all(item.state == "stopped" for item in items) or None

    async def done(self) -> list[tuple[str, bool, str]]:
        """Return each call's name and result once the item has been given back."""
        await to_thread.run_sync(
            lambda: until(
                lambda: self.site.types(self.session_id).count("agent.message") == 3 or None, 25
            ),
            abandon_on_cancel=True,
        )
        await to_thread.run_sync(lambda: until(self.ended), abandon_on_cancel=True)
        log = self.site.events(self.session_id)
        calls = {event.id: event.name for event in log if event.type == "agent.tool_use"}
        return [
            (calls[event.tool_use_id], event.is_error, event.content[0].text)
            for event in log
            if event.type == "user.tool_result"
        ]

    def check_stores(self) -> None:
        api = self.site.api
        assert paths(api, self.notes) == ["/deep/er/new.md", "/many/a.md", "/plan.md"]
        memories = api.beta.memory_stores.memories
        held: list[Any] = list(memories.list(self.notes, view="full"))
        assert [memory.content for memory in held] == ["learnt\n", "", "plan two\n"]
        rules: list[Any] = list(memories.list(self.rules, view="full"))
        assert [memory.content for memory in rules] == ["be kind\n"]
        versions = api.beta.memory_stores.memory_versions
        by_session = list(versions.list(self.notes, session_id=self.session_id))
        assert sorted(version.operation for version in by_session) == [
            "created",
            "deleted",
            "modified",
        ]
        assert list(versions.list(self.rules, session_id=self.session_id)) == []


@pytest.mark.usefixtures("mounts")
async def test_c25_14_c25_16_R169_both_workers_keep_the_same_memory(
    site: Site, tmp_path: Path
) -> None:
    results = []
    workers: tuple[Worker, ...] = (official, ours)
    for worker in workers:
        async with worker(site, tmp_path):
            job = Job(site)
            results.append(await job.done())
            job.check_stores()
    theirs, mine = results
    # Only a sandbox can refuse a shell's write; the official worker just never sends it.
    assert theirs[:-1] == mine[:-1]


async def test_c25_17_R145_our_worker_mounts_stores_into_the_sandbox(
    site: Site, tmp_path: Path
) -> None:
    async with ours(site, tmp_path):
        job = Job(site)
        results = await job.done()
        job.check_stores()
    assert [is_error for _, is_error, _ in results] == [False] * 6
    assert "Read-only file system" in results[-1][2]
    state = tmp_path / "state"
    assert not list((state / "memory").iterdir())
    audit = [json.loads(line) for line in read_lines(state / "audit.jsonl")]
    kinds = [entry["kind"] for entry in audit if entry["kind"].startswith("memory.")]
    assert sorted(kinds) == ["memory.delete", *["memory.read"] * 2, *["memory.write"] * 2]
    assert not any("learnt" in str(entry) or "plan" in str(entry) for entry in audit)
