"""What a model provider refuses does not end a session: real servers, providers over HTTP."""

import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anthropic import AsyncAnthropic

from tests.fakes.chat_server import FakeChat
from tests.fakes.messages_server import FakeMessages, Fault
from tests.wire.host import running
from tests.wire.structure import check

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

GOOD, BAD = (base64.b64encode(data).decode() for data in (b"a fine picture", b"torn bytes"))
PROBE = {
    "type": "custom",
    "name": "probe",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {}},
}
FILE = """
providers: [{{id: house, kind: openai, base_url: "{url}/v1", key_file: "{key}"}}]
models:
  - {{id: house-7b, display_name: House, provider: house, upstream_model: house}}
  - {{id: claude-first, display_name: First, fallback: [claude-other]}}
  - {{id: claude-other, display_name: Other}}
"""
CALL = [{"type": "tool_use", "id": "call_1", "name": "probe", "input": {}}]
DONE = [{"type": "text", "text": "done"}]


def image(data: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"type": "image", "source": source}


def said(*content: Any) -> Any:
    return {"type": "user.message", "content": [{"type": "text", "text": "Look."}, *content]}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where a provider finds what it cannot read."""
    if isinstance(value, str) and BAD in value:
        yield path
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def naming(body: dict[str, Any]) -> str | None:
    """Refuse as the Messages API does, with a path."""
    for _, index, _, number, *more in places(body["messages"], ("messages",)):
        inner = f".tool_result.content.{more[1]}" if more[0] == "content" else ""
        return f"messages.{index}.content.{number}{inner}.image.source.base64: not an image"
    return None


def vague(body: dict[str, Any]) -> str | None:
    """Refuse as providers do that name nothing."""
    return "Could not process image" if any(places(body["messages"])) else None


@asynccontextmanager
async def session(
    tmp_path: Path, fake: FakeMessages, model: str
) -> AsyncIterator[tuple[AsyncAnthropic, str]]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(fake.running())
        (tmp_path / "key").write_text("house-key-0123456789")
        (tmp_path / "models.yaml").write_text(FILE.format(url=url, key=tmp_path / "key"))
        server = stack.enter_context(
            running(
                tmp_path / "data",
                model_base_url=url,
                model_api_key="sk-fake",
                models_file=str(tmp_path / "models.yaml"),
            )
        )
        client = await stack.enter_async_context(
            AsyncAnthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
        )
        agent = await client.beta.agents.create(name="a", model=model, tools=[PROBE])  # type: ignore[list-item]  # plain JSON
        place = await client.beta.environments.create(name="p", config={"type": "self_hosted"})
        made = await client.beta.sessions.create(agent=agent.id, environment_id=place.id)
        yield client, made.id


async def rested(client: AsyncAnthropic, session_id: str, idles: int) -> list[Any]:
    """Return the events once the session has gone idle so often."""
    with anyio.fail_after(60):
        while True:
            events: list[Any] = [
                event async for event in client.beta.sessions.events.list(session_id, limit=1000)
            ]
            if [event.type for event in events].count("session.status_idle") >= idles:
                return events
            await anyio.sleep(0.03)


def bad_blocks(body: dict[str, Any]) -> int:
    return len(list(places(body["messages"])))


@pytest.mark.parametrize(
    ("model", "fake", "refuses"),
    [
        ("claude-sonnet-4-5", FakeMessages, naming),
        ("claude-sonnet-4-5", FakeMessages, vague),
        ("house-7b", FakeChat, naming),
        ("house-7b", FakeChat, vague),
    ],
    ids=["messages-named", "messages-vague", "chat-named", "chat-vague"],
)
async def test_a_session_outlives_what_its_provider_refuses(
    tmp_path: Path, model: str, fake: type[FakeMessages], refuses: Any
) -> None:
    provider = fake.saying(DONE, CALL, DONE, DONE)
    provider.refuses = refuses
    async with session(tmp_path, provider, model) as (client, session_id):
        send = client.beta.sessions.events.send
        # Of the user, beside a good one; then of a tool.
        await send(session_id, events=[said(image(GOOD), image(BAD))])
        events = await rested(client, session_id, 1)
        assert events[-1].stop_reason.type == "end_turn"
        await send(session_id, events=[said()])
        events = await rested(client, session_id, 2)
        (use_id,) = events[-1].stop_reason.event_ids
        result: Any = {
            "type": "user.custom_tool_result",
            "custom_tool_use_id": use_id,
            "content": [image(BAD), image(GOOD)],
        }
        await send(session_id, events=[result])
        events = await rested(client, session_id, 3)
        assert events[-1].stop_reason.type == "end_turn"
        await send(session_id, events=[said()])
        events = await rested(client, session_id, 4)
    for event in events:
        check(event, nullable=False)
    assert events[-1].stop_reason.type == "end_turn"
    types = [event.type for event in events]
    assert types.count("agent.message") == 3
    assert types.count("session.status_rescheduled") == 0
    errors = [event.error for event in events if event.type == "session.error"]
    assert [error.retry_status.type for error in errors] == ["retrying"] * 2
    assert all("withheld" in error.message for error in errors)
    # What clients sent is in the history as they sent it; only the model reads other words.
    shown = str([event.model_dump() for event in events])
    assert shown.count(BAD) == 2
    assert [bad_blocks(body) for body in provider.bodies] == [1, 0, 0, 1, 0, 0]
    newest = str(provider.bodies[-1]["messages"])
    assert newest.count("It is withheld, because the model provider refused it") >= 2
    assert newest.count(GOOD) == (2 if refuses is naming else 0)


def thinking(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Think, call once after each message of the user, then end; thoughts bear the model's name."""
    thought = {"type": "thinking", "thinking": "hm", "signature": body["model"]}
    results = [b for b in body["messages"][-1]["content"] if b["type"] == "tool_result"]
    call = {**CALL[0], "id": f"call_{len(body['messages'])}"}
    return [thought, *(DONE if results else [call])]


def signers(body: dict[str, Any]) -> list[str]:
    replies = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
    return [b["signature"] for reply in replies for b in reply if b["type"] == "thinking"]


def foreign(body: dict[str, Any]) -> str | None:
    """Refuse thoughts that another model signed, in the words of the Messages API."""
    for index, message in enumerate(body["messages"]):
        for number, block in enumerate(message["content"]):
            if block.get("signature", body["model"]) != body["model"]:
                return f"messages.{index}.content.{number}: Invalid `signature` in `thinking` block"
    return None


async def called(client: AsyncAnthropic, session_id: str, idles: int) -> list[Any]:
    """Send a message, answer the call that comes of it; return the events at the turn's end."""
    await client.beta.sessions.events.send(session_id, events=[said()])
    events = await rested(client, session_id, idles - 1)
    (use_id,) = events[-1].stop_reason.event_ids
    result: Any = {"type": "user.custom_tool_result", "custom_tool_use_id": use_id, "content": []}
    await client.beta.sessions.events.send(session_id, events=[result])
    return await rested(client, session_id, idles)


async def test_a_fall_back_answers_in_spite_of_thoughts_that_it_refuses(tmp_path: Path) -> None:
    provider = FakeMessages(thinking)
    provider.refuses = foreign
    first, other = "claude-first", "claude-other"
    async with session(tmp_path, provider, first) as (client, session_id):
        await called(client, session_id, 2)
        # Once the first one does not know us.
        away = Fault("status", status=401, type="authentication_error")
        provider.faults = [away]
        send = client.beta.sessions.events.send
        await send(session_id, events=[said()])
        events = await rested(client, session_id, 3)
        assert events[-1].stop_reason.type == "requires_action"
        assert [event for event in events if event.type == "session.error"] == []
        (use_id,) = events[-1].stop_reason.event_ids
        result: Any = {"type": "user.custom_tool_result", "custom_tool_use_id": use_id}
        await send(session_id, events=[result])
        await rested(client, session_id, 4)
        events = await called(client, session_id, 6)
    for event in events:
        check(event, nullable=False)
    assert events[-1].stop_reason.type == "end_turn"
    assert [(body["model"], signers(body)) for body in provider.bodies] == [
        (first, []),
        (first, [first]),
        (first, [first] * 2),
        (other, [first] * 2),
        (other, []),
        # The first one is back and has its own thoughts again, but refuses the other's.
        (first, [first, first, other]),
        (first, []),
        # What it thinks from then on comes back to it, as it must within a turn with tools.
        (first, [first]),
        (first, [first] * 2),
    ]
    assert str(provider.bodies[-1]["messages"]).count("'tool_use'") == 3, "calls stay"
    (error,) = [event.error for event in events if event.type == "session.error"]
    assert error.retry_status.type == "retrying"
    assert "withheld from the model from here on: 3 thinking" in error.message
