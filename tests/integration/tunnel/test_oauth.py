"""OAuth with an authorization server that is private too, by the documented recipe.

Its metadata names a public host for the browser's ``/authorize`` and the tunnel for all the others,
so that discovery, registration and tokens travel through the gateway. Client and server are the
official SDK's; a policy at the gateway opens the endpoints that this needs and no others.
"""

import json
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.oauth2 import AuthorizationCodeResult
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.types import TextContent
from pydantic import AnyUrl
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from intramuros.control.mcp.transport import TunnelTransport
from intramuros.protocol.who import Kind, Who
from intramuros.tunnel.routes import RouteTable, Upstream
from tests.fakes.oauth_server import Authority
from tests.integration.tunnel.rig import (
    DOMAIN,
    Rig,
    running_edge,
    running_gateway,
    running_upstream,
    url,
)

pytestmark = pytest.mark.anyio

ISSUER = f"https://auth.{DOMAIN}"
RESOURCE = url("/mcp")
POLICY = """
permit(principal, action in [Action::"connect", Action::"call_tool"], resource in Server::"docs");
permit(principal, action == Action::"http", resource == Server::"docs")
    when { context.http_method == "GET"
           && context.path like "/.well-known/oauth-protected-resource*" };
permit(principal, action == Action::"http", resource == Server::"auth")
    when { context.path == "/.well-known/oauth-authorization-server"
           || context.path == "/token" || context.path == "/register" };
"""


class Kept:
    """Where the SDK's client keeps what it was given."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Browser:
    """Goes to the page that it is sent to, and comes back with a code."""

    def __init__(self) -> None:
        self.went: list[str] = []
        self._came_back = ""

    async def go(self, to: str) -> None:
        self.went.append(to)
        async with httpx2.AsyncClient() as http:
            answer = await http.get(to)
        assert answer.status_code == 302, answer.text
        self._came_back = answer.headers["location"]

    async def result(self) -> AuthorizationCodeResult:
        found = {k: v[0] for k, v in parse_qs(urlsplit(self._came_back).query).items()}
        return AuthorizationCodeResult(code=found["code"], state=found["state"])


class Later:
    """An application whose own address must be known before it can be made."""

    app = Starlette()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def test_discovery_registration_and_tokens_go_through_the_tunnel(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    rig = Rig(tmp_path, who=(Who(Kind.USER, "user_1"),), policy=POLICY)
    authority, later, kept, browser = Authority(), Later(), Kept(), Browser()
    ledger = authority.resource(ISSUER, RESOURCE).streamable_http_app()
    async with AsyncExitStack() as stack:
        mcp_port = await stack.enter_async_context(running_upstream(ledger))
        auth_port = await stack.enter_async_context(running_upstream(later))
        public = f"http://127.0.0.1:{auth_port}"
        later.app = authority.app(ISSUER, public)
        edge_port = await stack.enter_async_context(running_edge(rig))
        routes = {
            "docs": Upstream("http", "127.0.0.1", mcp_port),
            "auth": Upstream("http", "127.0.0.1", auth_port),
        }
        config = replace(rig.config([edge_port], mcp_port), routes=RouteTable(routes, DOMAIN))
        await stack.enter_async_context(running_gateway(config))
        agreed = OAuthClientProvider(
            RESOURCE,
            OAuthClientMetadata(
                client_name="console", redirect_uris=[AnyUrl("http://127.0.0.1:1/back")]
            ),
            kept,
            browser.go,
            browser.result,
        )
        transport = TunnelTransport(rig.dialer(edge_port))
        http = await stack.enter_async_context(
            httpx2.AsyncClient(transport=transport, auth=agreed, timeout=60)
        )
        client = await stack.enter_async_context(
            Client(streamable_http_client(RESOURCE, http_client=http), mode="auto")
        )
        (told,) = (await client.call_tool("add", {"a": 19, "b": 23})).content
        assert isinstance(told, TextContent)
        assert told.text == "42"
        # Lost at the server: refused with 401, and the client starts anew by itself.
        first = kept.tokens
        authority.lose()
        await client.call_tool("add", {"a": 1, "b": 1})
        assert kept.tokens != first
    assert browser.went
    assert all(page.startswith(f"{public}/authorize?") for page in browser.went)
    records = [r["fields"] for r in rig.audit("gateway-audit.jsonl") if r["kind"] == "mcp.request"]
    paths = {r["path"] for r in records if r["route"] == "auth"}  # type: ignore[index]
    assert paths == {"/.well-known/oauth-authorization-server", "/register", "/token"}
    # Neither the gateway's record nor its log nor what the edge relayed holds a token.
    out = "".join(capfd.readouterr()) + caplog.text
    audited = (tmp_path / "gateway-audit.jsonl").read_text()
    assert len(authority.given) >= 5
    for secret in [*authority.given, str(kept.client and kept.client.client_secret)]:
        assert secret not in out
        assert secret not in audited
        assert secret.encode() not in rig.recorded()


async def test_what_the_recipe_does_not_need_stays_shut(tmp_path: Path) -> None:
    rig = Rig(tmp_path, who=(Who(Kind.USER, "user_1"),), policy=POLICY)
    authority = Authority()
    app = authority.app(ISSUER, "http://127.0.0.1:1")
    async with (
        running_upstream(app) as auth_port,
        running_edge(rig) as edge_port,
    ):
        routes = RouteTable({"auth": Upstream("http", "127.0.0.1", auth_port)}, DOMAIN)
        config = replace(rig.config([edge_port], auth_port), routes=routes)
        async with (
            running_gateway(config),
            httpx2.AsyncClient(transport=TunnelTransport(rig.dialer(edge_port))) as http,
        ):
            found = await http.get(f"{ISSUER}/.well-known/oauth-authorization-server")
            assert json.loads(found.text)["token_endpoint"] == f"{ISSUER}/token"
            for path in ("/authorize", "/revoke", "/", "/token/../authorize"):
                for method in ("GET", "POST"):
                    answer = await http.request(method, ISSUER + path)
                    assert (answer.status_code, answer.json()["error"]["type"]) == (
                        403,
                        "not_permitted",
                    ), path
