"""The ``auto`` policy through the official SDK and its worker, with a script that judges."""

from pathlib import Path
from typing import Any

import anthropic
import anyio.to_thread
import pytest
from anthropic.types.beta.sessions import BetaManagedAgentsAgentToolEvaluationAuto

from tests.wire.site import MESSAGE, Site, until
from tests.wire.structure import check
from tests.wire.workers import official

ASKS = "session.status_idle"


def prudent(site: Site, script: str = "prudent") -> tuple[str, list[Any]]:
    """Return a session that waits after the verdicts, and its log."""
    agent = site.agent(script, policy="auto")
    made = site.api.beta.sessions.create(
        agent=agent, environment_id=site.environment_id, initial_events=[MESSAGE]
    )
    log = site.wait(made.id, ASKS)
    for event in log:
        check(event, nullable=False)
    return made.id, log


def rested(site: Site, session_id: str) -> list[Any] | None:
    log = site.events(session_id)
    stop = getattr(log[-1], "stop_reason", None)
    return log if stop is not None and stop.type == "end_turn" else None


def outcomes(log: list[Any]) -> list[tuple[str, str, str | None]]:
    found = []
    for event in log:
        if event.type == "agent.tool_use":
            assert isinstance(event.evaluation, BetaManagedAgentsAgentToolEvaluationAuto)
            nested = event.evaluation.evaluated_permission
            code = getattr(nested, "reason_code", None)
            found.append((event.evaluated_permission, nested.type, code))
    return found


@pytest.mark.rule("c6_8", "c6_10", "c6_11", "c6_12", "c6_14", "R115", "R116", "R119", "R121")
def test_each_call_is_judged_and_a_denied_one_is_answered_by_the_server(site: Site) -> None:
    session_id, log = prudent(site)
    assert outcomes(log) == [
        ("allow", "allow", None),
        ("deny", "deny", "high_risk"),
        ("ask", "ask", "indeterminate"),
    ]
    safe, risky, unclear = [event for event in log if event.type == "agent.tool_use"]
    (answer,) = [event for event in log if event.type == "user.tool_result"]
    assert (answer.tool_use_id, answer.is_error) == (risky.id, True)
    assert "high-risk" in answer.content[0].text
    assert log[-1].stop_reason.event_ids == [safe.id, unclear.id], "nobody is asked for the other"
    order = [event.type for event in log]
    assert order.index("span.model_request_end") > log.index(unclear)
    send = site.api.beta.sessions.events.send
    for confirmed in (risky, safe):
        allow: Any = {
            "type": "user.tool_confirmation",
            "tool_use_id": confirmed.id,
            "result": "allow",
        }
        with pytest.raises(anthropic.BadRequestError):
            send(session_id, events=[allow])
    ran: Any = {"type": "user.tool_result", "tool_use_id": risky.id, "content": []}
    echoed = site.worker.beta.sessions.events.send(session_id, events=[ran]).data or []
    assert [event.id for event in echoed] == [answer.id], "what the server said stays"
    usage = site.api.beta.sessions.retrieve(session_id).usage
    assert (usage.input_tokens, usage.output_tokens) == (120, 12), "the judges count"


@pytest.mark.anyio
async def test_the_official_worker_runs_what_was_allowed_and_nothing_else(
    site: Site, tmp_path: Path
) -> None:
    session_id, log = prudent(site)
    unclear = [event.id for event in log if event.type == "agent.tool_use"][2]
    deny: Any = {"type": "user.tool_confirmation", "tool_use_id": unclear, "result": "deny"}
    site.api.beta.sessions.events.send(session_id, events=[deny])
    async with official(site, tmp_path) as workdir:
        log = await anyio.to_thread.run_sync(until, lambda: rested(site, session_id))
        assert (workdir / "kept.txt").read_text() == "kept\n"
    results = {e.tool_use_id: e.is_error for e in log if e.type == "user.tool_result"}
    safe, risky, _ = [event.id for event in log if event.type == "agent.tool_use"]
    assert results == {safe: False, risky: True}


def test_an_agent_whose_model_judges_nothing_is_asked_about(site: Site) -> None:
    _, log = prudent(site, "shell")
    assert set(outcomes(log)) == {("ask", "ask", "indeterminate")}


def test_an_interrupt_while_a_call_is_judged_ends_the_turn(site: Site) -> None:
    agent = site.agent("ponderous", policy="auto")
    made = site.api.beta.sessions.create(
        agent=agent, environment_id=site.environment_id, initial_events=[MESSAGE]
    )
    site.wait(made.id, "agent.message")
    assert site.types(made.id)[-1] == "agent.message", "said, and no call yet"
    assert site.api.beta.sessions.retrieve(made.id).status == "running"
    with pytest.raises(anthropic.APIStatusError):
        site.api.beta.sessions.delete(made.id)
    site.api.beta.sessions.events.send(made.id, events=[{"type": "user.interrupt"}])
    log = site.wait(made.id, ASKS)
    assert outcomes(log) == [("ask", "ask", "indeterminate")]
    (closed,) = [event for event in log if event.type == "user.tool_result"]
    assert closed.is_error
    assert log[-1].stop_reason.type == "end_turn"
    until(lambda: site.api.beta.sessions.retrieve(made.id).status == "idle" or None)
