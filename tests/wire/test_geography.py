"""Where models may think: a workspace's allow-list, through the official SDK."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic

from tests.wire.host import Server
from tests.wire.site import MESSAGE, until


@pytest.fixture
def workspace(client: Anthropic) -> str:
    made = client.beta.organization.workspaces.create(
        name="Narrow", data_residency={"default_inference_geo": "us"}
    )
    return made.id


@pytest.fixture
def inside(server: Server, workspace: str) -> Iterator[Anthropic]:
    """A client of that workspace."""
    answer = httpx2.post(
        f"{server.base_url}/x/keys",
        headers={"x-api-key": server.api_key, "anthropic-workspace-id": workspace},
        json={"name": "inside", "scopes": ["workspace:developer"]},
    )
    assert answer.status_code == 200, answer.text
    with Anthropic(base_url=server.base_url, api_key=answer.json()["key"], max_retries=0) as made:
        yield made


@pytest.mark.rule("c5_28")
def test_a_pin_is_checked_at_save_at_session_create_and_on_every_turn(
    client: Anthropic, inside: Anthropic, workspace: str
) -> None:
    model: Any = {"id": "scripted/answer", "inference_geo": "global"}
    agent = inside.beta.agents.create(name="A", model=model)
    assert agent.model.inference_geo == "global"
    environment: Any = {"type": "self_hosted"}
    environment_id = inside.beta.environments.create(name="E", config=environment).id
    session = inside.beta.sessions.create(agent=agent.id, environment_id=environment_id)

    def turn() -> list[Any]:
        count = sum(e.type == "session.status_idle" for e in log())
        inside.beta.sessions.events.send(session.id, events=[MESSAGE])
        return until(
            lambda: log() if sum(e.type == "session.status_idle" for e in log()) > count else None
        )

    def log() -> list[Any]:
        return list(inside.beta.sessions.events.list(session.id))

    assert turn()[-1].stop_reason.type == "end_turn"
    client.beta.organization.workspaces.update(
        workspace, data_residency={"allowed_inference_geos": ["us"]}
    )
    with pytest.raises(anthropic.BadRequestError, match="inference_geo"):
        inside.beta.agents.create(name="B", model=model)
    with pytest.raises(anthropic.BadRequestError, match="inference_geo"):
        inside.beta.sessions.create(agent=agent.id, environment_id=environment_id)
    after = turn()
    (error,) = [event.error for event in after if event.type == "session.error"]
    assert "allows us, not 'global'" in error.message
    assert after[-1].stop_reason.type == "retries_exhausted"
    client.beta.organization.workspaces.update(
        workspace, data_residency={"allowed_inference_geos": "unrestricted"}
    )
    assert turn()[-1].stop_reason.type == "end_turn", "the session itself is unharmed"
