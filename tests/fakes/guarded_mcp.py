"""The SDK's own MCP server that demands a bearer, and a small OAuth token endpoint beside it."""

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote_plus

import anyio
import uvicorn
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class Guarded:
    """What the server takes, and what it was asked."""

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        self.refresh_tokens: set[str] = set()
        self.client_secret: str | None = "cs"
        self.lifetime_s: int | None = 3600
        self.rotates = True
        self.status: int | None = None
        self.delay_s = 0.0
        self.seen: list[str] = []
        self.grants: list[dict[str, str]] = []
        self.basic: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def token_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    async def verify_token(self, token: str) -> AccessToken | None:
        self.seen.append(token)
        if token not in self.tokens:
            return None
        return AccessToken(token=token, client_id="client", scopes=[])

    async def token(self, request: Request) -> Response:
        form = {key: str(value) for key, value in (await request.form()).items()}
        self.grants.append(form)
        scheme, _, pair = request.headers.get("authorization", "").partition(" ")
        secret = form.get("client_secret")
        if scheme == "Basic":
            client, _, secret = base64.b64decode(pair).decode().partition(":")
            self.basic.append(unquote_plus(client))
            secret = unquote_plus(secret)
        if self.delay_s:
            await anyio.sleep(self.delay_s)
        if self.status is not None:
            return JSONResponse({"error": "server_error", "echo": form}, self.status)
        if secret != self.client_secret:
            return JSONResponse({"error": "invalid_client"}, 401)
        old = form["refresh_token"]
        if form.get("grant_type") != "refresh_token" or old not in self.refresh_tokens:
            return JSONResponse({"error": "invalid_grant", "echo": form}, 400)
        made = f"access-{len(self.grants)}"
        self.tokens.add(made)
        answer: dict[str, object] = {"access_token": made, "token_type": "bearer"}
        if self.lifetime_s is not None:
            answer["expires_in"] = self.lifetime_s
        if self.rotates:
            answer["refresh_token"] = f"refresh-{len(self.grants)}"
            self.refresh_tokens = {str(answer["refresh_token"])}
        return JSONResponse(answer)


@contextmanager
def guarded_mcp() -> Iterator[Guarded]:
    """Serve on a free loopback port until the block ends."""
    guarded = Guarded()
    mcp = MCPServer(
        "ledger",
        token_verifier=guarded,
        auth=AuthSettings(
            issuer_url=AnyHttpUrl("https://issuer.test"),
            resource_server_url=AnyHttpUrl("https://ledger.test/mcp"),
            validate_token_resource=False,
        ),
    )

    @mcp.tool()
    def add(a: int, b: int) -> str:
        """Add two numbers, and tell more than one should."""
        return f"{a + b}, said with {guarded.seen[-1]}"

    @mcp.tool()
    def dump(lines: int) -> str:
        """Print many lines, each with its number."""
        return "\n".join(f"line {number}" for number in range(1, lines + 1))

    app = mcp.streamable_http_app()
    app.router.routes.append(Route("/token", guarded.token, methods=["POST"]))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)  # noqa: TID251  another thread decides when
    guarded.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield guarded
    finally:
        server.should_exit = True
        thread.join(60)
