"""A job with a skill by the official worker and by ours: the same files, the same results."""

import json
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from intramuros.kernel.appendlog import read_lines
from tests.wire.site import MESSAGE, Site, until
from tests.wire.workers import official, ours

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

TEXT = b"---\nname: calc\ndescription: Adds numbers\n---\nRun run.sh.\n"
FILES: Any = [
    ("calc/SKILL.md", TEXT),
    ("calc/run.sh", b"#!/bin/sh\necho 52\n"),
    ("calc/lib/data.txt", b"data\n"),
]


def job(site: Site) -> tuple[str, str]:
    """Start a session of an agent with the skill; returns its id and the skill's."""
    skill = site.api.beta.skills.create(files=FILES)
    tools: Any = [{"type": "agent_toolset_20260401"}]
    agent = site.api.beta.agents.create(
        name="A",
        model="scripted/skill",
        tools=tools,
        skills=[{"type": "custom", "skill_id": skill.id}],
    )
    made = site.api.beta.sessions.create(
        agent=agent.id, environment_id=site.environment_id, initial_events=[MESSAGE]
    )
    return made.id, skill.id


async def finish(site: Site, session_id: str) -> list[str]:
    """Return what the tools said, in the order of the calls."""

    def look() -> list[Any] | None:
        log = site.events(session_id)
        return log if sum(event.type == "agent.message" for event in log) == 4 else None

    log = await to_thread.run_sync(lambda: until(look), abandon_on_cancel=True)
    assert [e for e in log if e.type == "agent.message"][-1].content[0].text == (
        "The script says 52."
    )
    results = {e.tool_use_id: e.content[0].text for e in log if e.type == "user.tool_result"}
    return [results[event.id] for event in log if event.type == "agent.tool_use"]


async def test_R202_c24_1_c24_2_c24_3_the_official_worker_lays_skills_out(
    site: Site, tmp_path: Path
) -> None:
    async with official(site, tmp_path):
        session_id, _ = job(site)
        read, ran, _ = await finish(site, session_id)
    assert TEXT.decode() in read
    assert ran.split() == ["52", "data"]


async def test_R202_c24_5_our_worker_shows_skills_read_only_and_removes_them(
    site: Site, tmp_path: Path
) -> None:
    async with ours(site, tmp_path) as state:
        session_id, skill_id = job(site)
        read, ran, changed = await finish(site, session_id)

        def removed() -> bool | None:
            return not list((state / "skills").iterdir()) or None

        await to_thread.run_sync(lambda: until(removed), abandon_on_cancel=True)
    assert TEXT.decode() in read
    assert ran.split() == ["52", "data"]
    assert "Read-only file system" in changed
    records = [json.loads(line) for line in read_lines(state / "audit.jsonl")]
    (fetched,) = [r["fields"] for r in records if r["kind"] == "skill.fetch"]
    assert fetched["skill_id"] == skill_id
