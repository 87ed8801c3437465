"""What a rule asks about leaves a real worker only when a person allows it over the API."""

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest

from intramuros.kernel.appendlog import read_lines
from tests.wire.site import MESSAGE, Site, until
from tests.wire.workers import ours

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
TOKEN = "ghp_" + "a" * 36


def policy(folder: Path, wait_s: int = 600) -> Path:
    file = folder / "outflow.yaml"
    file.write_text(f"rules: {{github token: ask}}\nask: {{timeout_s: {wait_s}}}\n")
    return file


def session(site: Site) -> str:
    return site.session("keeper", initial_events=[MESSAGE]).id


class People:
    """Who answers, with an API key."""

    def __init__(self, site: Site, session_id: str) -> None:
        self.place = f"{site.server.base_url}/x/sessions/{session_id}/releases"
        self.headers = {"x-api-key": site.server.api_key}

    def all(self) -> list[Any]:
        answer = httpx2.get(self.place, headers=self.headers)
        assert answer.status_code == 200, answer.text
        found: list[Any] = answer.json()["data"]
        return found

    def one(self) -> Any:
        (asked,) = until(lambda: self.all() or None)
        return asked

    def answer(self, id: str, **verdict: str) -> httpx2.Response:
        return httpx2.post(f"{self.place}/{id}", json=verdict, headers=self.headers)


def said(site: Site, session_id: str) -> str:
    """Return what the agent says in the end."""

    def over() -> str | None:
        log = site.events(session_id)
        stop = getattr(log[-1], "stop_reason", None) if log else None
        if stop is None or stop.type != "end_turn":
            return None
        message = [event for event in log if event.type == "agent.message"][-1]
        return str(message.content[0].text)

    return until(over)


def shown(site: Site, session_id: str) -> Any:
    """Return the first result that the agent was shown."""
    log = site.wait(session_id, "user.tool_result")
    return next(event for event in log if event.type == "user.tool_result")


def kinds(state: Path) -> list[str]:
    return [line.split('"kind":"')[1].split('"')[0] for line in read_lines(state / "audit.jsonl")]


async def on_thread(call: Any, *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(call, *arguments)


async def test_what_is_allowed_leaves_and_only_then(site: Site, tmp_path: Path) -> None:
    session_id = session(site)
    people = People(site, session_id)
    async with ours(site, tmp_path, outflow_policy=policy(tmp_path)) as state:
        asked = await on_thread(people.one)
        assert (asked["status"], asked["subject"]) == ("open", "tool_result")
        assert asked["excerpt"].strip() == "found [masked github token] here"
        assert asked["rules"] == {"github token": 1}
        # Nothing of it is anywhere on this side.
        assert TOKEN not in str([event.to_dict() for event in site.events(session_id)])
        call = next(e for e in site.events(session_id) if e.type == "agent.tool_use")
        assert asked["id"] == call.id
        answer = await on_thread(lambda: people.answer(asked["id"], result="allow"))
        assert answer.json()["status"] == "allowed"
        assert await on_thread(said, site, session_id) == f"I was shown: found {TOKEN} here."
    (asked,) = people.all()
    assert asked["decided_by"]
    recorded = kinds(state)
    assert recorded.index("release.ask") < recorded.index("release.answer")
    assert recorded.index("release.answer") < recorded.index("tool.result")


async def test_what_is_denied_stays_and_the_agent_goes_on(site: Site, tmp_path: Path) -> None:
    session_id = session(site)
    people = People(site, session_id)
    async with ours(site, tmp_path, outflow_policy=policy(tmp_path)):
        asked = await on_thread(people.one)
        verdict = {"result": "deny", "deny_message": "ask for less"}
        answer = await on_thread(lambda: people.answer(asked["id"], **verdict))
        assert answer.json()["status"] == "denied"
        again = await on_thread(lambda: people.answer(asked["id"], result="allow"))
        assert again.status_code == 409
        result = await on_thread(shown, site, session_id)
    assert result.is_error
    assert "github token (1)" in str(result.content)
    assert "ask for less" in str(result.content)
    assert TOKEN not in str([event.to_dict() for event in site.events(session_id)])


async def test_nobody_answers_in_time(site: Site, tmp_path: Path) -> None:
    session_id = session(site)
    async with ours(site, tmp_path, outflow_policy=policy(tmp_path, wait_s=1)):
        result = await on_thread(shown, site, session_id)
    assert result.is_error
    assert "Nobody answered in time" in str(result.content)


async def test_a_question_outlives_its_worker(site: Site, tmp_path: Path) -> None:
    session_id = session(site)
    people = People(site, session_id)
    file = policy(tmp_path)
    async with ours(site, tmp_path, outflow_policy=file):
        asked = await on_thread(people.one)
    await on_thread(lambda: people.answer(asked["id"], result="allow"))
    async with ours(site, tmp_path, outflow_policy=file) as state:
        await on_thread(said, site, session_id)
    assert len(people.all()) == 1
    # It was not run again to be let out.
    assert kinds(state).count("tool.call") == 1
