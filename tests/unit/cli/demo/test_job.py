import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anthropic import AsyncAnthropic

from intramuros.cli.demo import job
from intramuros.cli.demo.job import JobFailed, follow, make_agent, make_prober, run_job
from tests.unit.cli.conftest import Served

pytestmark = pytest.mark.anyio

RUNNING = "session.status_running"


def event(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "type": kind, "processed_at": "2026-01-01T00:00:00Z", **more}


IDLE = event("e9", "session.status_idle", stop_reason={"type": "end_turn"})


class Sessions:
    """A server whose streams break: each connection gives its history and then its live events."""

    def __init__(self, *connections: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
        self.connections = list(connections)
        self.history: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith("/stream"):
            self.history, live = self.connections.pop(0)
            frames = [f"event: x\ndata: {json.dumps(e)}\n\n".encode() for e in live]
            await _send(send, "text/event-stream", b"".join(frames))
        elif scope["method"] == "POST":
            sent = {"id": "e1", "type": "user.message", "processed_at": None, "content": []}
            await _send(send, "application/json", json.dumps({"data": [sent]}).encode())
        else:
            page = {"data": self.history, "next_page": None}
            await _send(send, "application/json", json.dumps(page).encode())


async def _send(send: Any, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def client_of(server: Sessions) -> AsyncIterator[AsyncAnthropic]:
    import httpx2

    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=server))
    async with AsyncAnthropic(base_url="http://x", api_key="k", http_client=http) as client:
        yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "RECONNECT_S", 0.01)


TASK = event("e1", "user.message", content=[])


async def test_each_event_once_over_broken_streams() -> None:
    server = Sessions(
        ([TASK], [event("e2", RUNNING), event("e3", "agent.message", content=[])]),
        ([TASK, event("e2", RUNNING)], []),
        ([TASK, event("e2", RUNNING), event("e3", "agent.message", content=[]), IDLE], []),
    )
    seen: list[str] = []
    async with client_of(server) as client:
        events = await run_job(client, "sesn_1", "go", lambda e: seen.append(str(e["id"])))
    assert seen == ["e1", "e2", "e3", "e9"]
    assert [e["id"] for e in events] == seen


async def test_an_idle_from_before_the_task_is_no_end() -> None:
    earlier = event("e0", "session.status_idle", stop_reason={"type": "end_turn"})
    server = Sessions(([earlier, TASK, IDLE], []))
    async with client_of(server) as client:
        events = await run_job(client, "sesn_1", "go", lambda _: None)
    assert [e["id"] for e in events] == ["e0", "e1", "e9"]


async def test_another_end_is_a_failure() -> None:
    exhausted = event("e9", "session.status_idle", stop_reason={"type": "retries_exhausted"})
    async with client_of(Sessions(([TASK, exhausted], []))) as client:
        with pytest.raises(JobFailed, match="retries_exhausted"):
            await run_job(client, "sesn_1", "go", lambda _: None)


async def test_queued_events_have_no_place_yet() -> None:
    queued = {"id": "q", "type": "user.message", "processed_at": None}
    async with client_of(Sessions(([queued, TASK, IDLE], []))) as client:
        async for seen in follow(client, "sesn_1"):
            assert seen["id"] == "e1"
            break


async def test_agents_are_what_a_real_server_takes(served: Served) -> None:
    key = (served.data_dir / "api-key").read_text().strip()
    async with AsyncAnthropic(base_url=served.url, api_key=key) as client:
        made = await client.beta.agents.retrieve(
            await make_agent(client, "claude-x", "https://bank.example.com/mcp")
        )
        assert (await make_prober(client, "scripted/x")).startswith("agent_")
    toolset, bank = (tool.to_dict() for tool in made.tools)
    off = {c["name"] for c in toolset["configs"] if not c["enabled"]}  # type: ignore[index,attr-defined]  JSON
    assert off == {"web_fetch", "web_search"}
    assert bank["default_config"]["enabled"] is False  # type: ignore[index]  JSON
