"""Sessions of private MCP servers, through a gateway: one caller's is no use to another."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from intramuros.control.mcp.transport import TunnelTransport
from intramuros.kernel.timing import SystemClock
from intramuros.tunnel import inner
from intramuros.tunnel.certs import make_server_certificate
from intramuros.tunnel.endpoints import PREFIX
from tests.fakes.mcp_visitor import visit
from tests.integration.tunnel.rig import (
    DOMAIN,
    Rig,
    client_of,
    eventually,
    running_edge,
    running_gateway,
    running_upstream,
    url,
)
from tests.integration.tunnel.test_program_routes import JSON, events

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(120),
    # The transport of old servers is one of those under test.
    pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning"),
]
OPENING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}
CALL = {
    "jsonrpc": "2.0",
    "id": 2,
    "method": "tools/call",
    "params": {"name": "secret", "arguments": {}},
}


def server() -> MCPServer:
    made = MCPServer("vault", log_level="ERROR")

    @made.tool()
    def secret() -> str:
        """Tell what only its caller may know."""
        return "the caller's own"

    return made


async def opened(client: httpx2.AsyncClient) -> str:
    answer = await client.post(url("/mcp"), json=OPENING, headers=JSON)
    assert answer.status_code == 200
    session = answer.headers["mcp-session-id"]
    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    headers = {**JSON, "mcp-session-id": session}
    assert (await client.post(url("/mcp"), json=done, headers=headers)).status_code == 202
    return str(session)


async def call(client: httpx2.AsyncClient, session: str) -> int:
    headers = {**JSON, "mcp-session-id": session}
    answer = await client.post(url("/mcp"), json=CALL, headers=headers)
    if answer.status_code == 200:
        assert "the caller's own" in events(answer)[-1]["result"]["content"][0]["text"]
    return answer.status_code


def denied(rig: Rig) -> list[Any]:
    records = rig.audit("gateway-audit.jsonl")
    return [record["fields"] for record in records if record["kind"] == "mcp.denied"]


async def test_t34_a_session_is_no_use_to_another_and_outlives_gateway_and_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner, "RECHECK_S", 0.0)
    rig = Rig(tmp_path)
    async with (
        running_upstream(server().streamable_http_app()) as upstream,
        running_edge(rig) as edge,
    ):
        async with running_gateway(rig.config([edge], upstream)):
            async with client_of(rig, edge) as client:
                session = await opened(client)
                assert await call(client, session) == 200
            rig.session = "sesn_2"
            async with client_of(rig, edge) as stranger:
                own = await opened(stranger)
                raw = session.rpartition(".")[0]
                mixed = f"{raw}.{own.rpartition('.')[2]}"
                for tried in (session, raw, mixed, "0" * 32):
                    headers = {**JSON, "mcp-session-id": tried}
                    assert await call(stranger, tried) == 404
                    listening = await stranger.get(url("/mcp"), headers=headers)
                    ending = await stranger.delete(url("/mcp"), headers=headers)
                    assert (listening.status_code, ending.status_code) == (404, 404)
                    assert "no such session" in ending.text
                assert await call(stranger, own) == 200
            rig.session = "sesn_1"
            refused = denied(rig)
            assert len(refused) == 12
            assert {each["reason"] for each in refused} == {"foreign_session"}
            assert {each["session"] for each in refused} == {"sesn_2"}
            # A renewed certificate ends no session.
            fresh = make_server_certificate(rig.ca, [f"*.{DOMAIN}"], SystemClock().now())
            rig.use_certificate(fresh)
            async with client_of(rig, edge) as client:
                assert await call(client, session) == 200
                session = await opened(client)
        # Neither does another gateway with the same key, such as this one after a restart.
        async with (
            running_gateway(rig.config([edge], upstream)),
            client_of(rig, edge) as client,
        ):
            assert await call(client, session) == 200
            headers = {**JSON, "mcp-session-id": session}
            assert (await client.delete(url("/mcp"), headers=headers)).status_code == 200
            assert await call(client, session) == 404


def in_the_path(app: ASGIApp) -> ASGIApp:
    """Return a server of the old transport as some are: the session's id is in the path."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        found = re.match(r"/post/([0-9a-f]+)\Z", scope.get("path", ""))
        if found is not None:
            scope = {**scope, "path": "/messages/", "raw_path": b"/messages/"}
            scope["query_string"] = b"session_id=" + found[1].encode()

        async def renamed(message: Message) -> None:
            if message["type"] == "http.response.body":
                body = message.get("body", b"")
                message["body"] = re.sub(rb"/messages/\?session_id=(\w+)", rb"/post/\1", body)
            await send(message)

        await app(scope, receive, renamed)

    return serve


@pytest.mark.parametrize("place", ["query", "path"])
async def test_t34_an_address_of_the_old_transport_is_no_use_to_another(
    tmp_path: Path, place: str
) -> None:
    rig = Rig(tmp_path)
    app = server().sse_app()
    async with (
        running_upstream(app if place == "query" else in_the_path(app)) as upstream,
        running_edge(rig) as edge,
        running_gateway(rig.config([edge], upstream)),
    ):
        async with (
            client_of(rig, edge) as client,
            client.stream("GET", url("/sse"), headers=JSON) as stream,
        ):
            lines = stream.aiter_lines()
            with anyio.fail_after(60):
                while not (line := await anext(lines)).startswith("data: "):
                    pass
            address = line.removeprefix("data: ")
            assert address.startswith(PREFIX.decode())
            posted = await client.post(url(address), json=OPENING, headers=JSON)
            assert posted.status_code == 202
            with anyio.fail_after(60):
                while not (line := await anext(lines)).startswith("data: {"):
                    pass
            assert json.loads(line.removeprefix("data: "))["result"]["serverInfo"]
            rig.session = "sesn_2"
            async with client_of(rig, edge) as stranger:
                id = "0" * 32
                guessed = (f"/messages/?session_id={id}", f"/messages/?session%5Fid={id}")
                for tried in (address, address[:-1], *guessed):
                    answer = await stranger.post(url(tried), json=CALL, headers=JSON)
                    assert answer.status_code == 404
                    assert "no such session" in answer.text
            assert {each["reason"] for each in denied(rig)} == {"foreign_session"}
            assert len(denied(rig)) == 4
            rig.session = "sesn_1"
        # Our own client speaks it as before, and so does the official one.
        async with visit(url("/sse"), way=lambda: TunnelTransport(rig.dialer(edge))) as found:
            assert set(await found.tools()) == {"secret"}
            assert not (await found.call("secret")).is_error

        def official(**options: Any) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(transport=TunnelTransport(rig.dialer(edge)), **options)

        async with Client(sse_client(url("/sse"), httpx_client_factory=official)) as theirs:
            assert not (await theirs.call_tool("secret", {})).is_error
        # The record names what the server was asked, not what stood for it.
        calls = [
            r["fields"] for r in rig.audit("gateway-audit.jsonl") if r["kind"] == "mcp.request"
        ]
        assert not any(PREFIX.decode() in json.dumps(call) for call in calls)


HOSTILE = [
    b"event: endpoint\ndata: https://mallory.example/messages\n\n",
    b"event: endpoint\ndata: //mallory.example/messages\n\n",
    b"event: endpoint\r\ndata: http://169.254.169.254/\r\n\r\n",
    b"data: x\n\nevent: endpoint\ndata: /\ndata: /mallory.example\n\n",
    b": " + b"x" * 40_000 + b"\ndata: https://mallory.example/\nevent: endpoint\n\n",
]


@pytest.mark.parametrize("said", HOSTILE, ids=["absolute", "host", "metadata", "lines", "long"])
async def test_t34_an_address_elsewhere_reaches_no_caller(tmp_path: Path, said: bytes) -> None:
    async def lure(_request: Request) -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            yield said
            await anyio.sleep_forever()

        return StreamingResponse(events(), media_type="text/event-stream")

    rig = Rig(tmp_path)
    async with (
        running_upstream(Starlette(routes=[Route("/sse", lure)])) as upstream,
        running_edge(rig) as edge,
        running_gateway(rig.config([edge], upstream)),
        client_of(rig, edge) as client,
    ):
        heard = b""
        with pytest.raises(httpx2.TransportError), anyio.fail_after(60):
            async with client.stream("GET", url("/sse"), headers=JSON) as stream:
                async for chunk in stream.aiter_raw():
                    heard += chunk
        assert b"event: endpoint" not in heard

        async def recorded() -> bool:
            return '"ended":"endpoint_refused"' in json.dumps(
                rig.audit("gateway-audit.jsonl"), separators=(",", ":")
            )

        await eventually(recorded, 60)
