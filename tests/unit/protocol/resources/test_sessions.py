from typing import Any

import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.sessions import SessionCreate, SessionUpdate

MESSAGE = {"type": "user.message", "content": [{"type": "text", "text": "x"}]}
LEAST: dict[str, Any] = {"agent": "agent_1", "environment_id": "env_1"}


def test_10_1_an_agent_and_an_environment_are_enough() -> None:
    made = SessionCreate.model_validate(LEAST)
    assert (made.agent, made.title, made.initial_events) == ("agent_1", None, None)


@pytest.mark.parametrize("missing", ["agent", "environment_id"])
def test_10_1_neither_may_be_missing(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        SessionCreate.model_validate({k: v for k, v in LEAST.items() if k != missing})


@pytest.mark.parametrize(
    "body",
    [
        {"initial_events": [MESSAGE] * 51},
        {"initial_events": [{"type": "user.interrupt"}]},
        {"initial_events": [{"type": "user.define_outcome"}]},
        {"title": "x" * 513},
        {"metadata": {"k" * 65: "v"}},
        {"metadata": {"k": None}},
        {"environment_id": ""},
        {"agent": {"type": "agent", "id": "a", "version": 0}},
        {"agent": {"type": "other", "id": "a"}},
        {"unknown": 1},
    ],
)
def test_what_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SessionCreate.model_validate({**LEAST, **body})


def test_10_11_fifty_initial_events_are_taken() -> None:
    made = SessionCreate.model_validate_json(
        SessionCreate.model_validate({**LEAST, "initial_events": [MESSAGE] * 50}).model_dump_json()
    )
    assert len(made.initial_events or ()) == 50


def test_an_update_tells_what_was_sent() -> None:
    update = SessionUpdate.model_validate({"title": None, "agent": {"tools": []}})
    assert update.sent("title")
    assert not update.sent("metadata")
    assert update.agent is not None
    assert update.agent.sent("tools")
    assert not update.agent.sent("mcp_servers")


def test_10_16_only_tools_and_servers_of_an_agent_may_change() -> None:
    for part in ({"system": "x"}, {"tools": None}, {"model": "m"}):
        with pytest.raises(ValidationError):
            SessionUpdate.model_validate({"agent": part})
    servers = [{"type": "url", "name": "n", "url": "https://x.example"}] * 2
    with pytest.raises(ValidationError, match="twice"):
        SessionUpdate.model_validate({"agent": {"mcp_servers": servers}})
