"""The same job by the official worker and by ours, against our server: same results."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anthropic import AsyncAnthropic
from anyio import to_thread

from intramuros.execution.sandbox import bwrap
from intramuros.execution.sandbox.base import Level
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.settings import WorkerSettings
from intramuros.execution.worker import serve_worker
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.service import Stop
from intramuros.protocol.audit import verify
from tests.wire.site import MESSAGE, Site, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@contextlib.asynccontextmanager
async def official(site: Site, folder: Path) -> AsyncIterator[Path]:
    """The SDK's own worker, unsandboxed."""
    workdir = folder / "official"
    workdir.mkdir()
    async with AsyncAnthropic(base_url=site.server.base_url, auth_token=site.key) as sdk:
        worker = sdk.beta.environments.work.worker(
            environment_id=site.environment_id,
            environment_key=site.key,
            workdir=str(workdir),
            max_idle=1.0,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            yield workdir
            group.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def ours(site: Site, folder: Path) -> AsyncIterator[Path]:
    """Our worker with real sandboxes."""
    for finding in bwrap.probe():
        if finding.level is Level.FAILURE:
            pytest.skip(f"no sandbox on this host: {finding.what}: {finding.fix}")
    key = folder / "key"
    key.write_text(site.key)
    key.chmod(0o600)
    state = folder / "state"
    settings = WorkerSettings(site.server.base_url, site.environment_id, key, state, max_idle_s=1.0)
    stop, ready = Stop(), anyio.Event()

    async def run() -> None:
        provider = BubblewrapProvider(state / "sandboxes")
        await serve_worker(settings, provider=provider, ready=lambda _: ready.set(), stop=stop)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        with anyio.fail_after(20):
            await ready.wait()
        yield state / "sandboxes" / "workspaces"
        stop.request()
    verify(read_lines(settings.audit_path()))


def job(site: Site) -> Any:
    return site.session("hands", initial_events=[MESSAGE])


async def finish(site: Site, session_id: str) -> list[Any]:
    def look() -> list[Any] | None:
        log = site.events(session_id)
        return log if sum(event.type == "agent.message" for event in log) == 4 else None

    # A handed-over item comes back to the queue after 10 s.
    return await to_thread.run_sync(lambda: until(look, 25), abandon_on_cancel=True)


def outcomes(log: list[Any], workspace: str) -> list[tuple[str, bool, str]]:
    """Each call's name and result in the order of the calls, with the workspace named alike."""
    results = {event.tool_use_id: event for event in log if event.type == "user.tool_result"}
    calls = [event for event in log if event.type == "agent.tool_use"]
    assert len(results) == len(calls), "one result for each call"
    return [
        (
            call.name,
            results[call.id].is_error,
            results[call.id].content[0].text.replace(workspace, "W"),
        )
        for call in calls
    ]


async def test_both_workers_do_the_same_job(site: Site, tmp_path: Path) -> None:
    async with official(site, tmp_path) as workdir:
        first = job(site)
        theirs = await finish(site, first.id)
    async with ours(site, tmp_path):
        second = job(site)
        mine = await finish(site, second.id)
    assert outcomes(mine, "/workspace") == outcomes(theirs, str(workdir))
    for log in (theirs, mine):
        said = [event.content[0].text for event in log if event.type == "agent.message"]
        assert said[-1] == "The total is 52."


async def test_our_worker_gives_the_item_back_when_the_session_rests(
    site: Site, tmp_path: Path
) -> None:
    async with ours(site, tmp_path):
        made = job(site)
        await finish(site, made.id)

        def stopped() -> bool | None:
            items = site.worker.beta.environments.work.list(site.environment_id)
            return all(item.state == "stopped" for item in items) or None

        await to_thread.run_sync(lambda: until(stopped), abandon_on_cancel=True)


async def test_a_drained_worker_hands_an_open_turn_to_the_next(site: Site, tmp_path: Path) -> None:
    async with ours(site, tmp_path):
        made = job(site)
        await to_thread.run_sync(
            lambda: site.wait(made.id, "agent.tool_use", 1), abandon_on_cancel=True
        )
    log = site.events(made.id)
    done = sum(event.type == "user.tool_result" for event in log)
    assert done < 7, "the first worker did everything; nothing was handed over"
    async with ours(site, tmp_path):
        log = await finish(site, made.id)
    results = [event.tool_use_id for event in log if event.type == "user.tool_result"]
    assert len(results) == len(set(results)) == 7
