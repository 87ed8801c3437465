"""Whole turns over Chat Completions: the official SDK, a real server, and a provider over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anthropic import APIStatusError, AsyncAnthropic, BadRequestError, RateLimitError

from tests.fakes.chat_server import FakeChat
from tests.fakes.messages_server import FakeMessages, Fault
from tests.wire.host import running
from tests.wire.structure import check

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

KEY = "house-key-0123456789"
PROBE = {
    "type": "custom",
    "name": "probe",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"where": {"type": "string"}}},
}
FILE = """
providers: [{{id: house, kind: openai, base_url: "{url}/v1", key_file: "{key}"}}]
models:
  - id: house-7b
    display_name: House 7B
    provider: house
    upstream_model: org/House-7B
    fallback: [other]
    prices: {{standard: {{input: "1000", output: "1000", cache_read: "0", cache_write_5m: "0",
                        cache_write_1h: "0"}}}}
  - id: other
    display_name: Other
    prices: {{standard: {{input: "100000", output: "0", cache_read: "0", cache_write_5m: "0",
                        cache_write_1h: "0"}}}}
"""
# Two calls at once, one of which no parser reads; then the end.
CALLS = [
    {"type": "thinking", "thinking": "Both, I think."},
    {"type": "tool_use", "id": "call_1", "name": "probe", "input": {"where": "there"}},
    {"type": "tool_use", "id": "call_2", "name": "probe", "input": '{"where": '},
]


@asynccontextmanager
async def session(
    tmp_path: Path, house: FakeChat, other: FakeMessages
) -> AsyncIterator[tuple[AsyncAnthropic, str]]:
    (tmp_path / "key").write_text(KEY)
    async with house.running() as url, other.running() as base_url:
        (tmp_path / "models.yaml").write_text(FILE.format(url=url, key=tmp_path / "key"))
        with running(
            tmp_path / "data",
            model_base_url=base_url,
            model_api_key="sk-fake",
            models_file=str(tmp_path / "models.yaml"),
        ) as server:
            made = AsyncAnthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
            async with made as client:
                agent = await client.beta.agents.create(
                    name="prober", model="house-7b", system="Look.", tools=[PROBE]
                )
                place = await client.beta.environments.create(
                    name="place", config={"type": "self_hosted"}
                )
                session = await client.beta.sessions.create(agent=agent.id, environment_id=place.id)
                yield client, session.id
            assert KEY not in server.log


async def rested(client: AsyncAnthropic, session_id: str, stop: str) -> list[Any]:
    with anyio.fail_after(60):
        while True:
            listed = client.beta.sessions.events.list(session_id, limit=1000)
            events = [event async for event in listed]
            last: Any = events[-1] if events else None
            if last and last.type == "session.status_idle" and last.stop_reason.type == stop:
                return events
            await anyio.sleep(0.05)


async def go(client: AsyncAnthropic, session_id: str) -> None:
    said: Any = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}
    await client.beta.sessions.events.send(session_id, events=[said])


async def test_a_turn_with_tools(tmp_path: Path) -> None:
    house = FakeChat.saying(CALLS, [{"type": "text", "text": "All grey."}])
    async with session(tmp_path, house, FakeMessages.saying([])) as (client, session_id):
        await go(client, session_id)
        events = await rested(client, session_id, "requires_action")
        (use_id,) = events[-1].stop_reason.event_ids
        content: Any = [{"type": "text", "text": "grey"}]
        result: Any = {
            "type": "user.custom_tool_result",
            "custom_tool_use_id": use_id,
            "content": content,
        }
        await client.beta.sessions.events.send(session_id, events=[result])
        events = await rested(client, session_id, "end_turn")
        usage = (await client.beta.sessions.retrieve(session_id)).usage
    for event in events:
        check(event, nullable=False)
    types = [event.type for event in events]
    assert types.count("agent.custom_tool_use") == types.count("agent.thinking") == 1
    (said,) = [event for event in events if event.type == "agent.message"]
    assert said.content[0].text == "All grey."
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (22, 14)
    assert usage.cache_read_input_tokens == 10
    assert [header["authorization"] for header in house.headers] == [f"Bearer {KEY}"] * 2
    first, second = (body["messages"] for body in house.bodies)
    assert first == [{"role": "system", "content": "Look."}, {"role": "user", "content": "go"}]
    _, _, calls, good, bad = second
    assert "reasoning_content" not in calls
    assert [call["function"]["arguments"] for call in calls["tool_calls"]] == [
        '{"where":"there"}',
        "{}",
    ]
    assert good == {"role": "tool", "tool_call_id": "call_1", "content": "grey"}
    assert bad["tool_call_id"] == "call_2"
    assert "is not an object" in bad["content"]


async def test_another_model_answers_at_its_own_price(tmp_path: Path) -> None:
    house = FakeChat.saying([{"type": "text", "text": "never"}])
    house.faults = [Fault("status", status=401, message=f"bad key {KEY}")]
    other = FakeMessages.saying([{"type": "text", "text": "from the other"}])
    async with session(tmp_path, house, other) as (client, session_id):
        await go(client, session_id)
        events = await rested(client, session_id, "end_turn")
        usage = (await client.beta.sessions.retrieve(session_id)).usage
    for event in events:
        check(event, nullable=False)
    assert not [event for event in events if event.type == "session.error"]
    (said,) = [event for event in events if event.type == "agent.message"]
    assert said.content[0].text == "from the other"
    assert [body["model"] for body in other.bodies] == ["other"]
    assert usage is not None
    assert usage.list_cost is not None
    # 11 tokens at ten cents each, and less than a second of running time
    assert usage.list_cost.amount == "110"


async def test_messages_of_models_behind_chat_completions(tmp_path: Path) -> None:
    text = [{"type": "text", "text": "All grey."}]
    house = FakeChat.saying(CALLS[:2], text)
    async with session(tmp_path, house, FakeMessages.saying(text)) as (client, _):
        tools: Any = [{"name": "probe", "description": "Looks.", "input_schema": {}}]
        asked: Any = [{"role": "user", "content": "go"}]
        more: Any = {"model": "house-7b", "max_tokens": 99, "tools": tools}
        message = await client.messages.create(messages=asked, system="Look.", **more)
        check(message, nullable=False)
        assert (message.model, message.stop_reason) == ("house-7b", "tool_use")
        assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (11, 5)
        (call,) = message.content
        asked.append({"role": "assistant", "content": message.content})
        result = {"type": "tool_result", "tool_use_id": getattr(call, "id", ""), "content": "grey"}
        asked.append({"role": "user", "content": [result]})
        async with client.messages.stream(messages=asked, **more) as stream:
            assert "".join([piece async for piece in stream.text_stream]) == "All grey."
            assert (await stream.get_final_message()).usage.output_tokens == 7
        counted = await client.messages.count_tokens(
            model="house-7b", messages=[{"role": "user", "content": "x" * 400}]
        )
        assert 100 <= counted.input_tokens <= 120
        plain: Any = {"model": "house-7b", "max_tokens": 9, "messages": asked[:1]}
        house.faults = [Fault("status", status=429, type="rate_limit_exceeded")]
        with pytest.raises(RateLimitError):
            await client.messages.create(**plain)
        house.faults = [Fault("error", at=4)]
        with pytest.raises(APIStatusError):
            async with client.messages.stream(**plain) as stream:
                await stream.get_final_message()
        searching: Any = [{"type": "web_search_20250305", "name": "web_search"}]
        with pytest.raises(BadRequestError, match="custom tools only"):
            await client.messages.create(**{**plain, "tools": searching})
    assert house.bodies[0]["model"] == "org/House-7B"
    roles = [message["role"] for message in house.bodies[1]["messages"]]
    assert roles == ["user", "assistant", "tool"]
