"""A server killed in the middle of a workflow run: the run goes on, and nothing of it is lost."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from anthropic import Anthropic

from tests.wire.host import running
from tests.wire.site import MESSAGE, Site, until

pytestmark = pytest.mark.timeout(240)

STEPS = [{"name": n, "agent": n, "prompt": f"Tell of {n}."} for n in ("ada", "bob")]
PLAN = {
    "name": "Tales",
    "phases": [
        {"name": "Tell", "steps": STEPS},
        {"name": "Judge", "steps": [{**STEPS[0], "name": "last", "uses": ["ada", "bob"]}]},
    ],
}
SLOW = {"pace_s": 0.3, "steps": [{"text": "It was so long ago that nobody quite remembers it."}]}
SCRIPTS: dict[str, Any] = {
    "lead": {
        "steps": [
            {"tools": [{"name": "run_workflow", "input": PLAN}]},
            {"text": "They tell."},
            {"text": "I have heard it all."},
        ]
    },
    "ada": SLOW,
    "bob": SLOW,
}


def begun(site: Site) -> str:
    make = site.api.beta.agents.create
    workers = [make(name=name, model=f"scripted/{name}").id for name in ("ada", "bob")]
    flows: Any = {"type": "enabled", "predefined_agents": workers}
    team: Any = {"type": "multiagent_20261001", "workflows": flows}
    lead = make(name="lead", model="scripted/lead", multiagent=team)
    return site.api.beta.sessions.create(
        agent=lead.id, environment_id=site.environment_id, initial_events=[MESSAGE]
    ).id


def own_events(api: Anthropic, session_id: str) -> list[list[str]]:
    """The event types of each of the run's threads."""
    threads = api.beta.sessions.threads
    return [
        [event.type for event in threads.events.list(thread.id, session_id=session_id)]
        for thread in threads.list(session_id)
        if thread.workflow_run_id is not None
    ]


def telling(api: Anthropic, session_id: str) -> bool:
    """Tell whether the model requests of both steps are open."""
    own = own_events(api, session_id)
    return len(own) == 2 and all(types[-1] == "span.model_request_start" for types in own)


@pytest.mark.rule("c15_28")
def test_a_run_survives_the_server(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name, script in SCRIPTS.items():
        (tmp_path / "scripts" / f"{name}.yaml").write_text(yaml.safe_dump(script))
    server_dir, settings = tmp_path / "server", {"model_scripts": str(tmp_path / "scripts")}
    with (
        running(server_dir, **settings) as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api,
        Site(server, api) as site,
    ):
        session_id = begun(site)
        until(lambda: telling(api, session_id) or None)
        server.process.kill()
        server.process.wait()
    port = urlsplit(server.base_url).port
    with (
        running(server_dir, port=port, **settings) as again,
        Anthropic(base_url=again.base_url, api_key=again.api_key) as api,
    ):

        def rested() -> list[Any] | None:
            log = list(api.beta.sessions.events.list(session_id))
            said = [e.content[0].text for e in log if e.type == "agent.message"]
            return log if said[-1:] == ["I have heard it all."] else None

        log = until(rested)
        own = own_events(api, session_id)
    kinds = [e.type.removeprefix("workflow_run.") for e in log if e.type.startswith("workflow_run")]
    phases = ["phase_started", "phase_ended"]
    assert kinds == ["created", "status_running", *phases, *phases, "status_ended"]
    end = next(e for e in log if e.type == "workflow_run.status_ended")
    assert end.result.type == "completed"
    assert [types.count("agent.message") for types in own] == [1, 1, 1]
    ends = [types.count("span.model_request_end") for types in own]
    assert ends == [2, 2, 1], "what was cut off was asked again, and nothing else"
