"""What a long session costs, and how it goes on: a real server, and a provider with a cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from anthropic import AsyncAnthropic

from tests.fakes.messages_server import FakeMessages
from tests.fakes.prompt_cache import PromptCache
from tests.wire.host import running
from tests.wire.structure import check

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

PROBE = {
    "type": "custom",
    "name": "probe",
    "description": "Looks around. " + "It looks at everything there is to see. " * 20,
    "input_schema": {"type": "object", "properties": {}},
}
# Long enough to be kept by itself.
SYSTEM = "You look at things and say what you saw. " * 150
SUMMARY = "1. Task: look seven times. 2. Done: looked. 3. Facts: all grey. 4. Open: go on."
MODELS = "models: [{id: small-model, display_name: Small, max_input_tokens: 60000}]"


class Looker:
    """Calls the probe so often, so many times at once, then ends; sums up when it is asked to."""

    def __init__(self, rounds: int, at_once: int = 1) -> None:
        self.left, self.at_once, self.summaries, self.calls = rounds, at_once, 0, 0

    def __call__(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        newest = next(m for m in reversed(body["messages"]) if m["role"] == "user")["content"]
        if "write a summary" in newest[-1].get("text", ""):
            self.summaries += 1
            return [{"type": "text", "text": SUMMARY}]
        if not self.left:
            return [{"type": "text", "text": "That was all."}]
        self.left -= 1
        self.calls += self.at_once
        return [
            {"type": "tool_use", "id": f"toolu_{self.calls - n}", "name": "probe", "input": {}}
            for n in range(self.at_once)
        ]


@asynccontextmanager
async def session(
    tmp_path: Path, fake: FakeMessages, model: str = "fake-model"
) -> AsyncIterator[tuple[AsyncAnthropic, str]]:
    (tmp_path / "models.yaml").write_text(MODELS)
    async with fake.running() as base_url:
        with running(
            tmp_path / "data",
            model_base_url=base_url,
            model_api_key="sk-fake",
            models_file=str(tmp_path / "models.yaml"),
        ) as server:
            client = AsyncAnthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
            async with client:
                agent = await client.beta.agents.create(
                    name="looker", model=model, system=SYSTEM, tools=[PROBE]
                )
                place = await client.beta.environments.create(
                    name="p", config={"type": "self_hosted"}
                )
                made = await client.beta.sessions.create(agent=agent.id, environment_id=place.id)
                yield client, made.id


async def history(client: AsyncAnthropic, session_id: str) -> list[Any]:
    return [event async for event in client.beta.sessions.events.list(session_id, limit=1000)]


async def serve(client: AsyncAnthropic, session_id: str, answer: str) -> list[Any]:
    """Say something, answer every call, and return the history once the turn has ended."""
    text: Any = {"type": "text", "text": answer}
    go: Any = {"type": "user.message", "content": [{"type": "text", "text": "Look seven times."}]}
    await client.beta.sessions.events.send(session_id, events=[go])
    answered: set[str] = set()
    with anyio.fail_after(60):
        while True:
            events = await history(client, session_id)
            idles = [e for e in events if e.type == "session.status_idle"]
            last = idles[-1] if idles and idles[-1] is events[-1] else None
            if last is not None and last.stop_reason.type != "requires_action":
                return events
            asked = last.stop_reason.event_ids if last is not None else []
            results: Any = [
                {"type": "user.custom_tool_result", "custom_tool_use_id": id, "content": [text]}
                for id in asked
                if id not in answered
            ]
            answered.update(asked)
            if results:
                await client.beta.sessions.events.send(session_id, events=results)
            await anyio.sleep(0.02)


def requests_of(events: list[Any]) -> list[Any]:
    return [e.model_usage for e in events if e.type == "span.model_request_end"]


@pytest.mark.parametrize("at_once", [1, 30])
async def test_each_request_reads_everything_that_the_last_one_left(
    tmp_path: Path, at_once: int
) -> None:
    fake = FakeMessages(Looker(rounds=5, at_once=at_once))
    fake.usage = PromptCache().usage
    async with session(tmp_path, fake) as (client, session_id):
        events = await serve(client, session_id, "It is grey. " * 20)
        used = requests_of(events)
        assert len(used) == 6
        assert used[0].cache_read_input_tokens == 0
        for before, now in pairwise(used):
            left = before.cache_read_input_tokens + before.cache_creation_input_tokens
            assert now.cache_read_input_tokens == left
            assert now.input_tokens == 0
        total = (await client.beta.sessions.retrieve(session_id)).usage
        assert total.cache_read_input_tokens == sum(u.cache_read_input_tokens for u in used)
        # A second session of the agent finds its tools and its system prompt.
        agent = fake.bodies[0]
        assert sum("cache_control" in tool for tool in agent["tools"]) == 1
        again = await client.beta.sessions.create(
            agent=(await client.beta.sessions.retrieve(session_id)).agent.id,
            environment_id=(await client.beta.sessions.retrieve(session_id)).environment_id,
        )
        (first, *_) = requests_of(await serve(client, again.id, "x"))
        prompt = len(SYSTEM) // 4
        assert first.cache_read_input_tokens > prompt


async def test_c14_6_a_full_window_is_compacted_and_the_session_goes_on(tmp_path: Path) -> None:
    looker = Looker(rounds=12)
    fake = FakeMessages(looker)
    fake.usage = PromptCache().usage
    async with session(tmp_path, fake, "small-model") as (client, session_id):
        events = await serve(client, session_id, "It is grey and large. " * 1500)
        for event in events:
            check(event, nullable=False)
        types = [e.type for e in events]
        compacted = types.count("agent.thread_context_compacted")
        assert compacted == looker.summaries >= 2
        assert types.count("agent.custom_tool_use") == 12
        assert events[-1].stop_reason.type == "end_turn"
        # The summary is read from the cache, and nobody takes it for a message.
        place = types.index("agent.thread_context_compacted")
        summing = requests_of(events[:place])[-1]
        assert summing.cache_read_input_tokens > 30_000
        assert summing.input_tokens < 1_000
        texts = [str(e.content) for e in events if e.type == "agent.message"]
        assert not any(SUMMARY in text for text in texts)
        # What comes after it is short again, and still begins with what the provider has.
        after = requests_of(events[place:])[0]
        total = after.cache_read_input_tokens + after.cache_creation_input_tokens
        assert total + after.input_tokens < 5_000
        assert after.cache_read_input_tokens > len(SYSTEM) // 4
        newest = fake.bodies[-1]["messages"][0]["content"][0]["text"]
        assert "Look seven times." in newest
        assert SUMMARY in newest
