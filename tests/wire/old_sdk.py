"""Runs under the oldest SDK that knows the API, in an environment without our code."""

import json
import sys
from typing import Any

import anthropic
from anthropic import Anthropic

TOLD = json.loads(sys.argv[1])
GO: Any = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}


def agents(client: Anthropic) -> str:
    made = client.beta.agents.create(
        name="old", model="scripted/answer", tools=[{"type": "agent_toolset_20260401"}]
    )
    assert client.beta.agents.retrieve(made.id).id == made.id
    changed = client.beta.agents.update(made.id, version=1, system="Be brief.")
    assert changed.version == 2
    assert [one.version for one in client.beta.agents.versions.list(made.id)] == [2, 1]
    assert made.id in [one.id for one in client.beta.agents.list(limit=5)]
    try:
        client.beta.agents.update(made.id, version=1, name="late")
    except anthropic.ConflictError:
        return made.id
    raise AssertionError("a stale version passed")


def environments(client: Anthropic) -> None:
    made = client.beta.environments.create(name="old")
    assert client.beta.environments.retrieve(made.id).config.type == "cloud"
    assert client.beta.environments.update(made.id, description="d").description == "d"
    assert made.id in [one.id for one in client.beta.environments.list(limit=5)]
    assert client.beta.environments.archive(made.id).archived_at
    assert client.beta.environments.delete(made.id).id == made.id


def sessions(client: Anthropic, agent_id: str) -> None:
    made = client.beta.sessions.create(agent=agent_id, environment_id=TOLD["environment_id"])
    assert made.status == "idle"
    seen = []
    with client.beta.sessions.events.stream(made.id) as stream:
        client.beta.sessions.events.send(made.id, events=[GO])
        for event in stream:
            seen.append(event.id)
            if event.type == "session.status_idle":
                break
    assert seen == [event.id for event in client.beta.sessions.events.list(made.id, limit=2)]
    assert client.beta.sessions.update(made.id, title="new").title == "new"
    assert made.id in [one.id for one in client.beta.sessions.list(limit=5)]
    assert client.beta.sessions.archive(made.id).status == "terminated"
    assert client.beta.sessions.delete(made.id).id == made.id


def vaults(client: Anthropic) -> None:
    made = client.beta.vaults.create(display_name="old")
    assert client.beta.vaults.retrieve(made.id).display_name == "old"
    assert made.id in [one.id for one in client.beta.vaults.list(limit=5)]
    assert client.beta.vaults.delete(made.id).id == made.id


def main() -> None:
    with Anthropic(base_url=TOLD["base_url"], api_key=TOLD["api_key"], max_retries=0) as client:
        agent_id = agents(client)
        environments(client)
        sessions(client, agent_id)
        vaults(client)
    sys.stdout.write(anthropic.__version__)


if __name__ == "__main__":
    main()
