"""Whole turns: the official SDK, a real server, and a Messages server over HTTP."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anthropic import AsyncAnthropic, BadRequestError

from tests.fakes.messages_server import FakeMessages, Fault
from tests.wire.host import Server, running

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

PROBE = {
    "type": "custom",
    "name": "probe",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {}},
}
GO = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}
OPEN = ["session.status_running", "session.thread_status_running"]
REST = ["session.thread_status_idle", "session.usage", "session.status_idle"]


@pytest.fixture
async def model() -> AsyncIterator[tuple[FakeMessages, str]]:
    fake = FakeMessages.calling("probe", {"where": "there"}, times=1)
    async with fake.running() as base_url:
        yield fake, base_url


@asynccontextmanager
async def client_of(data_dir: Path, model_url: str) -> AsyncIterator[tuple[AsyncAnthropic, Server]]:
    with running(data_dir, model_base_url=model_url, model_api_key="sk-fake") as server:
        made = AsyncAnthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
        async with made as client:
            yield client, server


async def session_of(client: AsyncAnthropic) -> str:
    agent = await client.beta.agents.create(
        name="prober", model="fake-model", system="Look.", tools=[PROBE]
    )
    place = await client.beta.environments.create(name="place", config={"type": "self_hosted"})
    session = await client.beta.sessions.create(agent=agent.id, environment_id=place.id)
    return session.id


async def history(client: AsyncAnthropic, session_id: str) -> list[Any]:
    return [event async for event in client.beta.sessions.events.list(session_id, limit=1000)]


async def rested(client: AsyncAnthropic, session_id: str, stop: str) -> list[Any]:
    """Return the history once the session is idle for that reason."""

    async def look() -> list[Any] | None:
        events = await history(client, session_id)
        if not events or events[-1].type != "session.status_idle":
            return None
        return events if events[-1].stop_reason.type == stop else None

    return await until(look)


async def asked(fake: FakeMessages) -> None:
    """Return once the model has a request."""

    async def look() -> bool:
        return bool(fake.bodies)

    await until(look)


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """Look again and again until there is something to see, 50 seconds at most."""
    with anyio.fail_after(60):
        while True:
            if seen := await look():
                return seen
            await anyio.sleep(0.05)


async def answer(client: AsyncAnthropic, session_id: str, events: list[Any]) -> None:
    (use_id,) = events[-1].stop_reason.event_ids
    result = {"type": "user.custom_tool_result", "custom_tool_use_id": use_id}
    await client.beta.sessions.events.send(session_id, events=[result])


@pytest.mark.rule("c15_1", "c15_3", "c15_5", "c15_6")
async def test_a_turn_with_a_tool_in_the_contracts_order(
    tmp_path: Path, model: tuple[FakeMessages, str]
) -> None:
    fake, model_url = model
    async with client_of(tmp_path / "data", model_url) as (client, _):
        session_id = await session_of(client)
        await client.beta.sessions.events.send(session_id, events=[GO])
        await answer(client, session_id, await rested(client, session_id, "requires_action"))
        events = await rested(client, session_id, "end_turn")
        session = await client.beta.sessions.retrieve(session_id)
    start, end = "span.model_request_start", "span.model_request_end"
    assert [event.type for event in events] == [
        *OPEN,
        "user.message",
        start,
        "agent.custom_tool_use",
        end,
        *REST,
        "user.custom_tool_result",
        *OPEN,
        start,
        "agent.message",
        end,
        *REST,
    ]
    times = [event.processed_at for event in events]
    assert times == sorted(set(times))
    assert session.status == "idle"
    assert session.usage.input_tokens == 22
    assert session.usage.cache_read_input_tokens == 10
    first, second = fake.bodies
    assert [block["text"] for block in first["system"]] == ["Look."]
    assert [tool["name"] for tool in first["tools"]] == ["probe"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]


async def test_previews_join_to_the_message_that_concludes_them(tmp_path: Path) -> None:
    fake = FakeMessages.saying([{"type": "text", "text": "a rather long reply " * 20}])
    async with (
        fake.running() as model_url,
        client_of(tmp_path / "data", model_url) as (client, _),
    ):
        session_id = await session_of(client)
        joined, message = "", None
        async with await client.beta.sessions.events.stream(
            session_id, event_deltas=["agent.message"]
        ) as stream:
            await client.beta.sessions.events.send(session_id, events=[GO])
            async for event in stream:
                if event.type == "event_delta":
                    joined += event.delta.content.text
                elif event.type == "agent.message":
                    message = event
                elif event.type == "session.status_idle":
                    break
    assert message is not None
    assert joined == message.content[0].text


@pytest.mark.rule("c14_6", "c15_18")
async def test_a_failing_provider_is_tried_again(tmp_path: Path) -> None:
    fake = FakeMessages.saying([{"type": "text", "text": "at last"}])
    fake.faults += [Fault("status"), Fault("cut", at=3)]
    async with (
        fake.running() as model_url,
        client_of(tmp_path / "data", model_url) as (client, _),
    ):
        session_id = await session_of(client)
        await client.beta.sessions.events.send(session_id, events=[GO])
        events = await rested(client, session_id, "end_turn")
    types = [event.type for event in events]
    assert types.count("session.status_rescheduled") == 2
    assert types.count("agent.message") == 1
    errors = [event.error for event in events if event.type == "session.error"]
    assert errors[0].type == "model_overloaded_error"
    assert {error.retry_status.type for error in errors} == {"retrying"}


@pytest.mark.rule("c15_4", "c15_13", "c15_14")
async def test_an_interrupt_stops_a_model_that_hangs(tmp_path: Path) -> None:
    fake = FakeMessages.saying([{"type": "text", "text": "never"}])
    fake.faults.append(Fault("silence", at=2))
    async with (
        fake.running() as model_url,
        client_of(tmp_path / "data", model_url) as (client, _),
    ):
        session_id = await session_of(client)
        await client.beta.sessions.events.send(session_id, events=[GO])
        await asked(fake)
        stop = {"type": "user.interrupt"}
        await client.beta.sessions.events.send(session_id, events=[stop])
        events = await rested(client, session_id, "end_turn")
    assert [event.type for event in events][-5:] == [
        "span.model_request_end",
        "user.interrupt",
        *REST,
    ]


@pytest.mark.rule("c15_4")
async def test_a_server_killed_in_mid_turn_goes_on_when_it_is_back(tmp_path: Path) -> None:
    fake = FakeMessages.calling("probe", {}, times=1)
    fake.faults.append(Fault("silence", at=2))
    async with fake.running() as model_url:
        async with client_of(tmp_path / "data", model_url) as (client, server):
            session_id = await session_of(client)
            await client.beta.sessions.events.send(session_id, events=[GO])
            await asked(fake)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        async with client_of(tmp_path / "data", model_url) as (client, _):
            # The dead server's lease must lapse first.
            events = await rested(client, session_id, "requires_action")
    starts = [event.id for event in events if event.type == "span.model_request_start"]
    ends = [e.model_request_start_id for e in events if e.type == "span.model_request_end"]
    assert starts == ends
    assert len(starts) == 2


async def test_files_are_content_that_the_model_reads_and_the_log_refers_to(
    tmp_path: Path,
) -> None:
    fake = FakeMessages.calling("probe", {}, times=0)
    async with fake.running() as base_url, client_of(tmp_path, base_url) as (client, _):
        image = await client.beta.files.upload(file=("a.png", b"\x89PNG", "image/png"))
        text = await client.beta.files.upload(file=("a.csv", b"a,b", "text/csv"))
        session_id = await session_of(client)
        content: Any = [
            {"type": "image", "source": {"type": "file", "file_id": image.id}},
            {"type": "document", "source": {"type": "file", "file_id": text.id}},
        ]
        await client.beta.sessions.events.send(
            session_id, events=[{"type": "user.message", "content": content}]
        )
        log = await rested(client, session_id, "end_turn")
        (said,) = [event for event in log if event.type == "user.message"]
        assert [block.source.file_id for block in said.content] == [image.id, text.id]
        sources = [block["source"] for block in fake.bodies[0]["messages"][0]["content"]]
        assert [source["data"] for source in sources] == ["iVBORw==", "a,b"]
        with pytest.raises(BadRequestError, match="an image is"):
            content[0]["source"]["file_id"] = text.id
            await client.beta.sessions.events.send(
                session_id, events=[{"type": "user.message", "content": content}]
            )
