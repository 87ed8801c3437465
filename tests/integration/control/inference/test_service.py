"""Tools behind a tunnel in the Messages API: official client, real MCP server, fake provider.

The way through the tunnel is a stand-in that leads to the MCP server directly; the tunnel itself is
tested in tests/integration/tunnel.
"""

import ipaddress
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anthropic
import anyio
import httpx2
import pytest
import uvicorn
from anthropic import AsyncAnthropic
from mcp.server.mcpserver import MCPServer
from starlette.types import Receive, Scope, Send

from intramuros.control.app import build_services
from intramuros.control.identity import audit
from intramuros.control.identity.installation import open_installation
from intramuros.control.inference.rounds import MAX_ROUNDS
from intramuros.control.inference.service import Inference, Voices
from intramuros.control.mcp.base import Caller, McpError, McpFailure, McpServer
from intramuros.control.mcp.guard import GuardedTransport
from intramuros.control.model.scripted import ScriptedModel
from intramuros.control.routes import create_app
from intramuros.control.settings import ServerSettings
from intramuros.kernel.service import Stop
from tests.fakes.messages_server import FakeMessages
from tests.wire.structure import check

pytestmark = pytest.mark.anyio

HOST = "docs.abc.tunnel.intramuros.internal"
KEY = "an-operators-own-secret"
TOKEN = "token-of-the-mcp-server-1234"
SERVERS: Any = [{"type": "url", "name": "docs", "url": f"https://{HOST}/mcp"}]
TOOLS: Any = [{"type": "mcp_toolset", "mcp_server_name": "docs"}]
ASK: Any = {"role": "user", "content": "what does the handbook say?"}
BASE: Any = {
    "model": "claude-opus-5",
    "max_tokens": 64,
    "messages": [ASK],
    "mcp_servers": SERVERS,
    "tools": TOOLS,
    "betas": ["mcp-client-2025-11-20"],
}


def use(name: str, number: int = 1, **arguments: object) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{name}_{number}", "name": name, "input": arguments}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


class Upstairs:
    """A private MCP server; remembers the credentials that it was shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        server = MCPServer("docs")

        @server.tool()
        def look(page: str) -> str:
            """Look a page up."""
            if page == "missing":
                raise ValueError("no such page")
            return f"page {page} says forty-two"

        @server.tool()
        def burn(page: str) -> str:
            """Burn a page."""
            return f"{page} is gone"

        self._inner = server.streamable_http_app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            self.seen.append(headers.get(b"authorization", b"").decode())
        await self._inner(scope, receive, send)


@pytest.fixture
def upstairs() -> Iterator[tuple[Upstairs, int]]:
    made = Upstairs()
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(
        uvicorn.Config(made, interface="asgi3", log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    yield made, listener.getsockname()[1]
    running.should_exit = True
    thread.join(60)
    listener.close()


@dataclass
class Way:
    """Stands in for the tunnel: one host leads to a port of ours, the others nowhere."""

    port: int

    def is_tunnel(self, url: str) -> bool:
        return (httpx2.URL(url).host or "").endswith(".tunnel.intramuros.internal")

    async def transport_for(self, caller: Caller, server: McpServer) -> httpx2.AsyncBaseTransport:
        host = httpx2.URL(server.url).host
        if host != HOST:
            raise McpError(server.name, McpFailure.CONNECTION, f"no tunnel serves {host}")
        return _Redirected(self.port)


class _Redirected(httpx2.AsyncBaseTransport):
    def __init__(self, port: int) -> None:
        self._port = port
        self._inner = GuardedTransport([ipaddress.ip_network("127.0.0.0/8")])

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        request.url = url
        request.headers["host"] = f"127.0.0.1:{self._port}"
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass
class House:
    api: AsyncAnthropic
    fake: FakeMessages
    upstairs: Upstairs
    services: Any

    async def audited(self, kind: str) -> list[dict[str, Any]]:
        lines = await self.services.db.read(lambda tx: list(audit.read_lines(tx)))
        return [r["fields"] for r in map(json.loads, lines) if r["kind"] == kind]


@asynccontextmanager
async def house(
    tmp_path: Path, upstairs: tuple[Upstairs, int], fake: FakeMessages
) -> AsyncIterator[House]:
    """The whole API in this process, with a provider and a private MCP server."""
    opened = await open_installation(tmp_path, None, KEY)
    async with fake.running() as base_url, anyio.create_task_group() as group:
        settings = ServerSettings(data_dir=tmp_path, model_base_url=base_url)
        built = await build_services(opened, settings)
        inference = Inference(
            built.db,
            built.clock,
            built.ids,
            Way(upstairs[1]),  # type: ignore[arg-type]  # what it needs of a Reach
            Voices(ScriptedModel(tmp_path / "scripts"), built.meter, built.recorder),
        )
        services = replace(built, inference=inference)
        stop = Stop()
        group.start_soon(inference.run, stop)
        transport = httpx2.ASGITransport(create_app(services))
        http = httpx2.AsyncClient(transport=transport, base_url="http://server")
        async with AsyncAnthropic(
            base_url="http://server", api_key=KEY, http_client=http, max_retries=0
        ) as api:
            yield House(api, fake, upstairs[0], services)
        stop.request()
        await services.upstream.aclose()
    opened.db.close()


async def test_tools_behind_a_tunnel_are_called_here(
    tmp_path: Path, upstairs: tuple[Upstairs, int]
) -> None:
    fake = FakeMessages.saying(
        [text("Let me look."), use("mcp__docs__look", page="7")], [text("It says forty-two.")]
    )
    async with house(tmp_path, upstairs, fake) as at:
        message = await at.api.beta.messages.create(**BASE)
        check(message, nullable=False)
        assert [block.type for block in message.content] == [
            "text",
            "mcp_tool_use",
            "mcp_tool_result",
            "text",
        ]
        called, answered = message.content[1], message.content[2]
        assert called.type == "mcp_tool_use"
        assert answered.type == "mcp_tool_result"
        assert (called.server_name, called.name, called.input) == ("docs", "look", {"page": "7"})
        assert called.id == answered.tool_use_id == "mcptoolu_mcp__docs__look_1"
        assert not answered.is_error
        assert not isinstance(answered.content, str)
        assert answered.content[0].text == "page 7 says forty-two"
        assert (message.stop_reason, message.usage.input_tokens) == ("end_turn", 22)
        first, second = fake.bodies
        assert "mcp_servers" not in first
        assert {tool["name"] for tool in first["tools"]} == {"mcp__docs__look", "mcp__docs__burn"}
        assert "anthropic-beta" not in fake.headers[0]
        assert second["messages"][-1]["content"][0]["content"] == [text("page 7 says forty-two")]
        for kind in ("messages.create", "messages.mcp_call", "messages.mcp_result"):
            (record,) = await at.audited(kind)
            assert record["request"].startswith("req_")
            assert "forty-two" not in str(record)

        # The caller goes on with what it got: the provider sees plain calls and results.
        again = [ASK, {"role": "assistant", "content": message.content}, {**ASK, "content": "ok"}]
        await at.api.beta.messages.create(**{**BASE, "messages": again})
        roles = [(m["role"], len(m["content"])) for m in fake.bodies[2]["messages"][1:]]
        assert roles == [("assistant", 2), ("user", 1), ("assistant", 1), ("user", 2)]


async def test_a_stream_shows_calls_and_results_as_they_are_made(
    tmp_path: Path, upstairs: tuple[Upstairs, int]
) -> None:
    fake = FakeMessages.saying(
        [use("mcp__docs__look", 1, page="1"), use("mcp__docs__look", 2, page="missing")],
        [text("Only one of them.")],
    )
    async with house(tmp_path, upstairs, fake) as at:
        async with at.api.beta.messages.stream(**BASE) as stream:
            kinds = [event.type async for event in stream]
            message = await stream.get_final_message()
        check(message, nullable=False)
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
        assert [block.type for block in message.content] == [
            "mcp_tool_use",
            "mcp_tool_use",
            "mcp_tool_result",
            "mcp_tool_result",
            "text",
        ]
        assert message.content[1].input == {"page": "missing"}  # type: ignore[union-attr]
        results = message.content[2:4]
        assert [r.is_error for r in results] == [False, True]  # type: ignore[union-attr]
        whole = await at.api.beta.messages.create(**BASE)
        assert [b.to_dict() for b in whole.content] == [b.to_dict() for b in message.content]


async def test_the_callers_own_tools_end_the_turn(
    tmp_path: Path, upstairs: tuple[Upstairs, int]
) -> None:
    fake = FakeMessages.saying([use("mcp__docs__look", page="1"), use("mine", 2)], [text("done")])
    own: Any = {"name": "mine", "description": "d", "input_schema": {"type": "object"}}
    async with house(tmp_path, upstairs, fake) as at:
        request = {**BASE, "tools": [own, *TOOLS]}
        message = await at.api.beta.messages.create(**request)
        assert message.stop_reason == "tool_use"
        assert [block.type for block in message.content] == [
            "mcp_tool_use",
            "tool_use",
            "mcp_tool_result",
        ]
        answer = {"type": "tool_result", "tool_use_id": "toolu_mine_2", "content": "here"}
        messages = [
            ASK,
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [answer]},
        ]
        await at.api.beta.messages.create(**{**request, "messages": messages})
        said, heard = fake.bodies[1]["messages"][1:]
        assert [b["id"] for b in said["content"]] == ["toolu_mcp__docs__look_1", "toolu_mine_2"]
        assert [b["tool_use_id"] for b in heard["content"]] == [b["id"] for b in said["content"]]


async def test_only_enabled_tools_are_offered_and_the_token_goes_to_the_server_alone(
    tmp_path: Path, upstairs: tuple[Upstairs, int]
) -> None:
    fake = FakeMessages.saying([use("mcp__docs__burn", page="1")], [text("done")])
    async with house(tmp_path, upstairs, fake) as at:
        toolset = {**TOOLS[0], "configs": {"burn": {"enabled": False}}}
        server = {**SERVERS[0], "authorization_token": TOKEN}
        request = {**BASE, "tools": [toolset], "mcp_servers": [server]}
        message = await at.api.beta.messages.create(**request)
        assert [tool["name"] for tool in fake.bodies[0]["tools"]] == ["mcp__docs__look"]
        # The model called what it was not offered: nobody here does it for it.
        assert (message.content[0].type, message.stop_reason) == ("tool_use", "tool_use")
        assert set(at.upstairs.seen) == {f"Bearer {TOKEN}"}
        assert TOKEN not in str(fake.bodies) + str(fake.headers)
        assert TOKEN not in str(await at.audited("messages.create"))
        counted = await at.api.beta.messages.count_tokens(
            **{name: value for name, value in BASE.items() if name != "max_tokens"}
        )
        assert counted.input_tokens == 42
        assert "mcp_servers" not in fake.bodies[-1]


async def test_a_loop_without_end_is_paused(tmp_path: Path, upstairs: tuple[Upstairs, int]) -> None:
    fake = FakeMessages.saying([use("mcp__docs__look", page="1")])
    async with house(tmp_path, upstairs, fake) as at:
        choice: Any = {"type": "any"}
        message = await at.api.beta.messages.create(**BASE, tool_choice=choice)
        assert message.stop_reason == "pause_turn"
        assert len(fake.bodies) == MAX_ROUNDS
        assert [b["tool_choice"]["type"] for b in fake.bodies[:2]] == ["any", "auto"]


async def test_what_cannot_be_served_is_explained(
    tmp_path: Path, upstairs: tuple[Upstairs, int]
) -> None:
    fake = FakeMessages.saying([text("never")])
    elsewhere = {**SERVERS[0], "url": "https://x.other.tunnel.intramuros.internal/mcp"}
    wrong: Any = [
        ({"mcp_servers": [elsewhere]}, "no tunnel serves"),
        ({"tools": []}, "exactly one mcp_toolset"),
        ({"mcp_servers": [{**SERVERS[0], "type": "file"}]}, "mcp_servers.0..type"),
        ({"mcp_servers": [{**SERVERS[0], "x": 1}]}, "mcp_servers.0..x"),
        ({"model": "scripted/x", "mcp_servers": [{**SERVERS[0], "url": "https://e.com"}]}, "only"),
    ]
    async with house(tmp_path, upstairs, fake) as at:
        for change, named in wrong:
            with pytest.raises(anthropic.BadRequestError, match=named):
                await at.api.beta.messages.create(**{**BASE, **change})
        assert fake.bodies == []


async def test_a_script_calls_tools_behind_a_tunnel(
    tmp_path: Path, upstairs: tuple[Upstairs, int]
) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "look.yaml").write_text(
        "steps:\n- id: a\n  text: I look.\n  tools: [{name: look, input: {page: '9'}}]\n"
        "- text: Done.\n"
    )
    fake = FakeMessages.saying([text("never")])
    async with house(tmp_path, upstairs, fake) as at:
        message = await at.api.beta.messages.create(**{**BASE, "model": "scripted/look"})
        check(message, nullable=False)
        assert [block.type for block in message.content] == [
            "text",
            "mcp_tool_use",
            "mcp_tool_result",
            "text",
        ]
        assert fake.bodies == []
