"""A server killed while three children are at work: each goes on, and each call has one result."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from anthropic import Anthropic
from anyio import to_thread

from intramuros.kernel.appendlog import read_lines
from intramuros.protocol.audit import verify
from tests.e2e.worker_process import WorkerProcess
from tests.hosts import needs_sandboxes
from tests.wire.host import running
from tests.wire.site import MESSAGE, Site, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

NAMES = ("ada", "bob", "cyd")


def scripts() -> dict[str, Any]:
    sending = [
        {"name": "send_to_agent", "input": {"agent": name, "message": "Leave your mark."}}
        for name in NAMES
    ]
    lead = {"steps": [{"tools": sending}, *[{"text": "Noted."}] * 6]}
    children = {
        name: {
            "pace_s": 0.25,
            "steps": [
                {
                    "text": "Before I do anything I think about it for quite a while.",
                    "tools": [{"name": "bash", "input": {"command": f"echo {name} > {name}.txt"}}],
                },
                {"text": f"{name} left a mark."},
            ],
        }
        for name in NAMES
    }
    return {"lead": lead, **children}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    needs_sandboxes()
    (tmp_path / "scripts").mkdir()
    for name, script in scripts().items():
        (tmp_path / "scripts" / f"{name}.yaml").write_text(yaml.safe_dump(script))
    return tmp_path


def led(site: Site) -> str:
    tools: Any = [{"type": "agent_toolset_20260401"}]
    make = site.api.beta.agents.create
    roster = [make(name=n, model=f"scripted/{n}", tools=tools).id for n in NAMES]
    crew: Any = {"type": "coordinator", "agents": roster}
    lead = make(name="lead", model="scripted/lead", multiagent=crew)
    return site.api.beta.sessions.create(
        agent=lead.id, environment_id=site.environment_id, initial_events=[MESSAGE]
    ).id


def own_events(api: Anthropic, session_id: str) -> Iterator[list[Any]]:
    threads = api.beta.sessions.threads
    for thread in threads.list(session_id):
        if thread.parent_thread_id is not None:
            yield list(threads.events.list(thread.id, session_id=session_id))


def thinking(api: Anthropic, session_id: str) -> bool:
    """Tell whether the model requests of all three children are open."""
    spans = [
        [event.type for event in own if event.type.startswith("span.model_request")]
        for own in own_events(api, session_id)
    ]
    return len(spans) == 3 and all(own == ["span.model_request_start"] for own in spans)


async def test_three_children_survive_the_server(folder: Path) -> None:
    server_dir, settings = folder / "server", {"model_scripts": str(folder / "scripts")}
    with (
        running(server_dir, **settings) as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api,
        Site(server, api) as site,
    ):
        session_id = led(site)
        worker = WorkerProcess(
            *(server.base_url, site.environment_id, site.key, folder), "--lease-ttl-s", "10"
        )
        until(lambda: thinking(api, session_id) or None)
        server.process.kill()
        server.process.wait()
    port = urlsplit(server.base_url).port
    with (
        running(server_dir, port=port, **settings) as again,
        Anthropic(base_url=again.base_url, api_key=again.api_key) as api,
    ):

        def rested() -> list[Any] | None:
            log = list(api.beta.sessions.events.list(session_id))
            told = [e for e in log if e.type == "agent.thread_message_received"]
            idle = api.beta.sessions.retrieve(session_id).status == "idle"
            return log if idle and len(told) == 3 else None

        async with worker.run():
            log = await to_thread.run_sync(lambda: until(rested), abandon_on_cancel=True)
        children = list(own_events(api, session_id))
    left = worker.workspace("", session_id).names()
    assert [name for name in left if name.endswith(".txt")] == [f"{name}.txt" for name in NAMES], (
        "all three worked in the one sandbox"
    )
    for own in children:
        ends = [event for event in own if event.type == "span.model_request_end"]
        assert [event.is_error for event in ends] == [True, False, False]
        uses = [event.id for event in own if event.type == "agent.tool_use"]
        results = [event.tool_use_id for event in own if event.type == "user.tool_result"]
        assert len(uses) == 1
        assert results == uses, "one result for each call"
    said = [e.content[0].text for e in log if e.type == "agent.thread_message_received"]
    assert sorted(said) == [f"{name} left a mark." for name in NAMES]
    verify(read_lines(worker.state / "audit.jsonl"))
