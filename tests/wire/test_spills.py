"""Results of a real MCP server that are too long for the model, read in real sandboxes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx2
import pytest

from tests.fakes.guarded_mcp import Guarded, guarded_mcp
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site, until
from tests.wire.test_cloud import pool_key
from tests.wire.test_vault_mcp import bearer, vault
from tests.wire.test_work import token_of
from tests.wire.workers import official, ours

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

WHOLE = "\n".join(f"line {number}" for number in range(1, 20_001))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("spills") / "data"
    settings = {"model_scripts": str(SCRIPTS), "mcp_networks": ["127.0.0.0/8"]}
    with running(data_dir, **settings) as started:
        yield started


@pytest.fixture(scope="module")
def mcp() -> Iterator[Guarded]:
    with guarded_mcp() as guarded:
        guarded.tokens = {"good"}
        yield guarded


def reading(site: Site, mcp: Guarded, environment_id: str | None = None) -> str:
    """Return a session whose agent asks for more than it can be shown."""
    toolset: Any = {
        "type": "mcp_toolset",
        "mcp_server_name": "ledger",
        "default_config": {"permission_policy": {"type": "always_allow"}},
    }
    server: Any = {"type": "url", "name": "ledger", "url": mcp.url}
    agent = site.api.beta.agents.create(
        name="A",
        model="scripted/reader",
        tools=[toolset, {"type": "agent_toolset_20260401"}],
        mcp_servers=[server],
    )
    held, _ = vault(site.api, bearer(mcp, "good"))
    made = site.api.beta.sessions.create(
        agent=agent.id,
        environment_id=environment_id or site.environment_id,
        vault_ids=[held],
        initial_events=[MESSAGE],
    )
    return made.id


def ended(site: Site, session_id: str) -> list[Any] | None:
    log = site.events(session_id)
    stop = getattr(log[-1], "stop_reason", None) if log else None
    return log if stop is not None and stop.type == "end_turn" else None


def preview(log: list[Any]) -> str:
    (result,) = [event for event in log if event.type == "agent.mcp_tool_result"]
    (block,) = result.content
    return str(block.text)


@pytest.mark.rule("c6_25", "R108")
@pytest.mark.parametrize("cloud", [False, True], ids=["self-hosted", "cloud"])
async def test_the_model_is_shown_a_part_and_the_sandbox_has_the_whole(
    site: Site, mcp: Guarded, tmp_path: Path, cloud: bool
) -> None:
    environment_id = site.environment("cloud") if cloud else None
    session_id = reading(site, mcp, environment_id)
    async with ours(site, tmp_path, pool_key(site) if cloud else None):
        log = await anyio.to_thread.run_sync(until, lambda: ended(site, session_id), 30)
    shown = preview(log)
    assert len(WHOLE) > 100_000
    assert len(shown) < 11_000
    assert shown.startswith("line 1\nline 2\n")
    assert shown.endswith("line 20000")
    (call,) = [event for event in log if event.type == "agent.mcp_tool_use"]
    assert f"/workspace/.intramuros/outputs/{call.id}.txt" in shown
    said = [event for event in log if event.type == "agent.message"][-1].content[0].text
    assert said == f"It says line 10000\nline 20000{len(WHOLE)}."
    site.api.beta.sessions.delete(session_id)


async def test_the_official_worker_has_no_such_file_and_the_preview_says_so(
    site: Site, mcp: Guarded, tmp_path: Path
) -> None:
    session_id = reading(site, mcp)
    async with official(site, tmp_path):
        log = await anyio.to_thread.run_sync(until, lambda: ended(site, session_id), 30)
    assert "unless this environment's worker provides no such files" in preview(log)
    results = [event.is_error for event in log if event.type == "user.tool_result"]
    assert all(results), "the model learns that the file is not there"


def test_only_the_sessions_own_token_reads_it_and_it_goes_with_the_session(
    site: Site, mcp: Guarded
) -> None:
    session_id = reading(site, mcp)
    site.wait(session_id, "agent.tool_use")
    work = site.worker.beta.environments.work
    item = work.poll(site.environment_id)
    assert item is not None
    token = token_of(item.secret or "")
    path = f"{site.server.base_url}/x/sessions/{session_id}/spills"

    def ask(where: str, secret: str) -> httpx2.Response:
        return httpx2.get(where, headers={"authorization": f"Bearer {secret}"})

    (listed,) = ask(path, token).json()["data"]
    assert listed["size_bytes"] == len(WHOLE)
    where = f"{path}/{listed['tool_use_id']}"
    assert ask(where, token).text == WHOLE
    assert ask(f"{path}/sevt_none", token).status_code == 404
    assert ask(f"{path}/none", token).status_code == 400
    for secret in (site.key, site.server.api_key):
        assert ask(path, secret).status_code in (401, 403)
        assert ask(where, secret).status_code in (401, 403)
    site.api.beta.sessions.events.send(session_id, events=[{"type": "user.interrupt"}])
    until(lambda: site.api.beta.sessions.retrieve(session_id).status == "idle" or None)
    site.api.beta.sessions.delete(session_id)
    assert ask(where, token).status_code in (401, 404)
