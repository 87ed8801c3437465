from typing import Any

import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.deployments import DeploymentCreate, DeploymentUpdate

GO = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}
WHOLE: dict[str, Any] = {
    "agent": "agent_1",
    "environment_id": "env_1",
    "initial_events": [GO],
    "name": "n",
}


@pytest.mark.parametrize("member", sorted(WHOLE))
def test_R204_four_members_are_required(member: str) -> None:
    DeploymentCreate.model_validate(WHOLE)
    with pytest.raises(ValidationError, match=member):
        DeploymentCreate.model_validate({k: v for k, v in WHOLE.items() if k != member})


@pytest.mark.parametrize("member", sorted(WHOLE))
def test_R213_they_may_be_left_out_of_an_update_but_not_be_null(member: str) -> None:
    sent = DeploymentUpdate.model_validate({})
    assert not sent.sent(member)
    assert getattr(sent, member) is None
    with pytest.raises(ValidationError, match="cannot be cleared"):
        DeploymentUpdate.model_validate({member: None})


def test_the_agent_is_an_id_or_a_reference() -> None:
    for agent in ("agent_1", {"type": "agent", "id": "agent_1"}):
        DeploymentCreate.model_validate({**WHOLE, "agent": agent})
    overrides = {"type": "agent_with_overrides", "id": "agent_1"}
    for agent in ("", "a" * 129, overrides, 7, None, {"type": "agent"}):
        with pytest.raises(ValidationError, match="agent"):
            DeploymentCreate.model_validate({**WHOLE, "agent": agent})


@pytest.mark.parametrize(
    "schedule",
    [
        {"type": "cron", "expression": "", "timezone": "UTC"},
        {"type": "cron", "expression": "* * * * *", "timezone": ""},
        {"type": "cron", "expression": "* " * 200, "timezone": "UTC"},
        {"type": "cron", "expression": "* * * * *", "timezone": "UTC", "last_run_at": None},
        {"type": "rate", "expression": "* * * * *", "timezone": "UTC"},
        "* * * * *",
    ],
)
def test_R214_shapes_of_schedules(schedule: object) -> None:
    with pytest.raises(ValidationError, match="schedule"):
        DeploymentCreate.model_validate({**WHOLE, "schedule": schedule})
