import json
from typing import Any

import pytest

from intramuros.control.session.conversation import Conversation
from intramuros.control.session.delegation import MAX_TRANSCRIPT_CHARS, transcript
from tests.fakes.band import Band, definition, lead
from tests.fakes.loop import text, use, uses

SCOUT = definition("scout")
INLINE = {
    **definition("lead"),
    "multiagent": {
        "type": "multiagent_20261001",
        "subagents": {
            "type": "enabled",
            "inline_agents": {"type": "enabled"},
            "predefined_agents": [],
        },
        "workflows": {"type": "disabled"},
        "advisor": {"type": "disabled"},
    },
}


def asked(declared: dict[str, Any], tool: str, **given: object) -> tuple[Band, dict[str, Any]]:
    """A coordinator that has made one call, and the call's result."""
    band = Band(declared, lead=[uses(use(tool, **given))])
    band.log.say("go")
    band.next()
    band.land("sthr_main")
    band.next()
    results = [r for r in band.log.records if r.type == "internal.crew_result"]
    return band, dict(results[-1].body) if results else {}


def said(result: dict[str, Any]) -> str:
    return str(result["content"][0]["text"])


def test_the_listing_leaves_the_advisor_out() -> None:
    band = Band(lead(SCOUT, advisor=True))
    band.scripts["lead"].extend(
        [
            uses(
                use("send_to_agent", "t1", agent="scout", message="m"), use("consult_advisor", "t2")
            ),
            uses(use("list_agents", "t3")),
        ]
    )
    band.scripts["anthropic.advisor"].append(text("hm"))
    band.log.say("go")
    band.next()
    band.land("sthr_main")
    band.next()
    band.land(band.id_of("anthropic.advisor"))
    band.next()
    band.land("sthr_main")
    band.next()
    results = [r for r in band.log.records if r.type == "internal.crew_result"]
    listed = json.loads(said(dict(results[-1].body)))
    assert listed["agents"] == [{"name": "scout", "description": "Does scout."}]
    (thread,) = listed["threads"]
    assert (thread["agent"], thread["status"]) == ("scout", "running")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"agent": "scout"}, "message"),
        ({"agent": "scout", "message": "  "}, "message"),
        ({"agent": "nobody", "message": "m"}, "known: 'scout'"),
        ({"message": "m"}, "exactly one"),
        ({"agent": "scout", "thread_id": "sthr_1", "message": "m"}, "exactly one"),
        ({"thread_id": "sthr_none", "message": "m"}, "no open thread"),
        ({"thread_id": "sthr_main", "message": "m"}, "no open thread"),
        ({"inline_agent": {"name": "x", "system": "y"}, "message": "m"}, "cannot define"),
    ],
)
def test_what_cannot_be_sent_is_told_to_the_model(given: dict[str, object], why: str) -> None:
    band, result = asked(lead(SCOUT), "send_to_agent", **given)
    assert result["is_error"] is True
    assert why in said(result)
    assert "session.thread_created" not in band.types()


def test_the_advisor_cannot_be_written_to() -> None:
    band = Band(lead(SCOUT, advisor=True))
    band.scripts["lead"].append(uses(use("consult_advisor", "t1")))
    band.log.say("go")
    band.next()
    band.land("sthr_main")
    band.next()
    advisor = band.id_of("anthropic.advisor")
    band.scripts["anthropic.advisor"].append(text("hm"))
    band.scripts["lead"].append(uses(use("send_to_agent", "t2", thread_id=advisor, message="m")))
    band.land(advisor)
    band.next()
    band.land("sthr_main")
    band.next()
    result = [r for r in band.log.records if r.type == "internal.crew_result"][-1]
    assert "no open thread" in said(dict(result.body))


def test_an_inline_agent_has_its_makers_model_and_tools() -> None:
    made = {"name": "helper", "system": "Help."}
    band, result = asked(INLINE, "send_to_agent", inline_agent=made, message="go")
    assert not result["is_error"]
    created = next(r for r in band.log.records if r.type == "session.thread_created")
    agent = (created.private or {})["agent"]
    assert isinstance(agent, dict)
    assert (agent["type"], agent["name"], agent["system"]) == ("inline", "helper", "Help.")
    assert agent["model"] == INLINE["model"]
    assert not agent.keys() & {"id", "version", "multiagent"}
    assert band.view.of(band.id_of("helper")).tools().keys() == set()


@pytest.mark.parametrize(
    "made",
    [
        "x",
        {},
        {"name": "x"},
        {"name": "anthropic.advisor", "system": "s"},
        {"name": 1, "system": "s"},
        {"name": "n" * 257, "system": "s"},
    ],
)
def test_an_inline_agent_needs_a_name_and_instructions(made: object) -> None:
    _, result = asked(INLINE, "send_to_agent", inline_agent=made, message="go")
    assert result["is_error"] is True


def test_the_transcript_is_bounded_and_keeps_the_newest() -> None:
    block = {"type": "text", "text": "x" * MAX_TRANSCRIPT_CHARS}
    talk = Conversation(
        settled=(
            {"role": "user", "content": [{"type": "text", "text": "oldest"}, block]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "secret"},
                    {"type": "tool_use", "id": "t", "name": "bash", "input": {"command": "ls"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}
                ],
            },
        ),
        results={"e": {"content": [{"type": "text", "text": "newest"}]}},
    )
    told = transcript("Be exact.", talk)
    assert told.startswith("The agent's instructions:\nBe exact.")
    assert "oldest" not in told
    assert "secret" not in told
    assert '(calls bash with {"command": "ls"})' in told
    assert "(image)" in told
    assert "newest" in told
    assert len(told) < MAX_TRANSCRIPT_CHARS + 500
