"""The same job by the official worker and by ours, against our server: same results."""

from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from tests.wire.site import MESSAGE, Site, until
from tests.wire.workers import official, ours

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


def job(site: Site) -> Any:
    return site.session("hands", initial_events=[MESSAGE])


async def finish(site: Site, session_id: str) -> list[Any]:
    def look() -> list[Any] | None:
        log = site.events(session_id)
        return log if sum(event.type == "agent.message" for event in log) == 4 else None

    # A handed-over item comes back to the queue after 10 s.
    return await to_thread.run_sync(lambda: until(look), abandon_on_cancel=True)


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
