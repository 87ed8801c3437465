from typing import Any

import pytest
from sqlalchemy import select

from intramuros.control.deployment import deployments, present
from intramuros.control.store.repository_tables import repository_tokens
from intramuros.control.store.tables import resources
from intramuros.protocol.resources.deployments import DeploymentCreate, DeploymentUpdate
from tests.fakes.deployments import GO, Desk

TOKEN = "ghp_a-token-nobody-may-see"
URL = "https://github.com/octo/repo"


def wanted(token: str | None = TOKEN, **more: Any) -> dict[str, Any]:
    sent = {} if token is None else {"authorization_token": token}
    return {"type": "github_repository", "url": URL, **sent, **more}


@pytest.fixture
def made(desk: Desk) -> str:
    request = DeploymentCreate.model_validate(
        {
            "name": "D",
            "agent": desk.world.agent_id,
            "environment_id": desk.world.environment_ids["cloud"],
            "initial_events": [GO],
            "resources": [wanted(), wanted(None, mount_path="/workspace/b")],
        }
    )
    return desk.service.create(desk.world.tx, desk.actor, request).resource.id


def tokens(desk: Desk) -> list[str | None]:
    ids = desk.world.tx.execute(select(repository_tokens.c.id)).scalars()
    return [desk.world.tokens.open(desk.world.tx, id) for id in ids]


def test_R208_the_echo_has_no_token_and_nothing_lies_in_clear(desk: Desk, made: str) -> None:
    tx = desk.world.tx
    found = deployments.get(tx, desk.world.workspace_id, made)
    assert present.deployment(found, desk.world.now_us)["resources"] == [
        {"type": "github_repository", "url": URL, "mount_path": None, "checkout": None},
        {"type": "github_repository", "url": URL, "mount_path": "/workspace/b", "checkout": None},
    ]
    assert TOKEN not in str(tx.execute(select(resources.c.body)).all())
    assert tokens(desk) == [TOKEN]


def test_each_run_starts_a_session_with_the_token(desk: Desk, made: str) -> None:
    world = desk.world
    run = desk.runs.start(
        world.tx, world.api, deployments.get(world.tx, world.workspace_id, made), None
    )
    row = world.sessions.get(world.tx, world.api, run.session_id)
    assert [shown["mount_path"] for shown in row.resources] == ["/workspace/repo", "/workspace/b"]
    opened = [world.tokens.open(world.tx, shown["id"]) for shown in row.resources]
    assert opened == [TOKEN, None]


def test_what_is_sent_anew_replaces_every_token(desk: Desk, made: str) -> None:
    def update(**sent: Any) -> None:
        request = DeploymentUpdate.model_validate(sent)
        desk.service.update(desk.world.tx, desk.actor, made, request)

    update(name="E")
    assert tokens(desk) == [TOKEN]
    update(resources=[wanted("ghp_second")])
    assert tokens(desk) == ["ghp_second"]
    update(resources=None)
    assert tokens(desk) == []


def test_an_archived_deployment_forgets_its_tokens(desk: Desk, made: str) -> None:
    deployments.archive(desk.world.tx, desk.actor, made)
    assert tokens(desk) == []
