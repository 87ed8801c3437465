"""A server killed in the middle of an evaluation brings it to its end when it comes back."""

from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic

from tests.e2e.rig import eventually
from tests.wire.host import Server, running

SCRIPT = """
steps:
  - text: A first version.
  - text: A better one.
grader:
  - text: {slowly}
    tools:
      - name: grade_criteria
        input: {{grades: [{{criterion: 1, met: false, why: It is too short.}}]}}
  - tools:
      - name: grade_criteria
        input: {{grades: [{{criterion: 1, met: true, why: It is long enough.}}]}}
pace_s: 0.25
"""
SPAN = "span.outcome_evaluation"
OUTCOME: Any = {
    "type": "user.define_outcome",
    "description": "Write it.",
    "rubric": {"type": "text", "content": "- It is long enough."},
}


def client_of(server: Server) -> Anthropic:
    return Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=60)


def types(client: Anthropic, session_id: str) -> list[str]:
    return [event.type for event in client.beta.sessions.events.list(session_id)]


@pytest.mark.timeout(240)
def test_a_killed_evaluation_is_made_again_and_ends_once(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "writer.yaml").write_text(SCRIPT.format(slowly="I look " * 12))
    with (
        running(tmp_path / "data", model_scripts=str(scripts)) as server,
        client_of(server) as client,
    ):
        agent = client.beta.agents.create(name="writer", model="scripted/writer")
        place = client.beta.environments.create(name="p", config={"type": "self_hosted"})
        session_id = client.beta.sessions.create(
            agent=agent.id, environment_id=place.id, initial_events=[OUTCOME]
        ).id
        eventually(
            lambda: f"{SPAN}_ongoing" in types(client, session_id), 60, "the grader was not asked"
        )
        server.process.kill()
        server.process.wait()
    with (
        running(tmp_path / "data", model_scripts=str(scripts)) as server,
        client_of(server) as client,
    ):
        (left,) = client.beta.sessions.retrieve(session_id).outcome_evaluations
        assert left.result == "evaluating"
        eventually(lambda: "session.status_idle" in types(client, session_id), 60, "it never ended")
        log = list(client.beta.sessions.events.list(session_id))
        ends = [event for event in log if event.type == f"{SPAN}_end"]
        starts = [event for event in log if event.type == f"{SPAN}_start"]
        assert [end.result for end in ends] == ["needs_revision", "satisfied"]
        assert [end.outcome_evaluation_start_id for end in ends] == [s.id for s in starts]
        (entry,) = client.beta.sessions.retrieve(session_id).outcome_evaluations
        assert (entry.result, entry.iteration) == ("satisfied", 1)
