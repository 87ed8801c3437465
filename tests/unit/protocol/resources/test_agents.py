from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from intramuros.protocol.resources.agents import (
    AgentCreate,
    AgentOverrides,
    AgentParam,
    AgentReference,
    AgentUpdate,
    ModelConfig,
)

PARAM: TypeAdapter[Any] = TypeAdapter(AgentParam)


@pytest.mark.rule("c5_3")
def test_effort_has_two_forms() -> None:
    short = ModelConfig.model_validate({"id": "m", "effort": "max"})
    long = ModelConfig.model_validate({"id": "m", "effort": {"type": "max"}})
    assert short.effort_level == long.effort_level == "max"
    assert ModelConfig(id="m").effort_level is None


@pytest.mark.parametrize(
    "model",
    [
        "",
        "two words",
        1,
        None,
        {},
        {"id": "m", "effort": "huge"},
        {"id": "m", "speed": "slow"},
        {"id": "m", "inference_geo": "mars"},
        {"id": "m", "temperature": 1},
    ],
)
def test_models_are_checked(model: object) -> None:
    with pytest.raises(ValidationError):
        AgentCreate.model_validate({"name": "a", "model": model})


@pytest.mark.parametrize("field", ["name", "model"])
@pytest.mark.rule("c5_12")
def test_name_and_model_can_be_left_out_of_an_update_but_not_cleared(field: str) -> None:
    assert not AgentUpdate.model_validate({}).sent(field)
    for cleared in (None, ""):
        with pytest.raises(ValidationError):
            AgentUpdate.model_validate({field: cleared})


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x.example",
        "https://",
        "/relative",
        "https://user:pw@x.example",
        "https://x.example:99999",
        "https://x.example/a b",
        "https://x.example/\u202e",
        "https://[broken",
        "https://x.example/" + "a" * 2048,
    ],
)
@pytest.mark.rule("c5_22", "R093")
def test_mcp_urls_must_be_usable_and_hold_no_credential(url: str) -> None:
    server = {"type": "url", "name": "x", "url": url}
    with pytest.raises(ValidationError):
        AgentCreate.model_validate({"name": "a", "model": "m", "mcp_servers": [server]})


@pytest.mark.rule("c5_22", "R093")
def test_mcp_servers_are_distinct_and_at_most_twenty() -> None:
    def servers(*names: str) -> list[dict[str, str]]:
        return [{"type": "url", "name": n, "url": "https://x.example/mcp"} for n in names]

    base = {"name": "a", "model": "m"}
    twenty = servers(*(f"s{i}" for i in range(20)))
    AgentCreate.model_validate({**base, "mcp_servers": twenty})
    for bad in (servers("a", "a"), twenty + servers("more"), servers("")):
        with pytest.raises(ValidationError):
            AgentCreate.model_validate({**base, "mcp_servers": bad})


@pytest.mark.rule("c10_2")
def test_a_sessions_agent_has_three_forms() -> None:
    assert PARAM.validate_python("agent_1") == "agent_1"
    reference = PARAM.validate_python({"type": "agent", "id": "agent_1", "version": 2})
    assert reference == AgentReference(type="agent", id="agent_1", version=2)
    overrides = PARAM.validate_python(
        {"type": "agent_with_overrides", "id": "agent_1", "system": None}
    )
    assert isinstance(overrides, AgentOverrides)
    assert (overrides.sent("system"), overrides.sent("tools")) == (True, False)
    for bad in (
        "",
        {"type": "self"},
        {"id": "agent_1"},
        {"type": "agent", "id": "a", "version": 0},
        {"type": "agent", "id": "a", "system": "x"},
        7,
        None,
        [],
    ):
        with pytest.raises(ValidationError):
            PARAM.validate_python(bad)


@pytest.mark.rule("c5_16")
def test_execution_identities_are_whole() -> None:
    base = {"name": "a", "model": "m"}
    AgentCreate.model_validate(
        {**base, "execution_identity": {"type": "aws_role", "role_arn": "arn:aws:iam::1:role/x"}}
    )
    for bad in ({"type": "aws_role"}, {"type": "service_account", "role_arn": "x"}, {"type": "x"}):
        with pytest.raises(ValidationError):
            AgentCreate.model_validate({**base, "execution_identity": bad})
