"""An OAuth 2.1 authorization server of the MCP SDK's parts, and an MCP server that trusts it.

Codes with PKCE, dynamic registration, refresh tokens that are replaced, revocation and metadata are
the SDK's own handlers; this holds what they keep. The metadata is split, as for a server that only
a browser reaches from outside: ``/authorize`` on a public host, all else behind a tunnel.
"""

import secrets
import time
from typing import Final

from mcp.server.auth.handlers.metadata import MetadataHandler
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.routes import build_metadata, create_auth_routes
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions, RevocationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.routing import Route

REGISTRATION: Final = ClientRegistrationOptions(enabled=True)
REVOCATION: Final = RevocationOptions(enabled=True)
LIFETIME_S: Final = 3600


class Authority:
    """What the authorization server keeps. Every token that it ever gave is in ``given``."""

    def __init__(self) -> None:
        self.clients: dict[str, OAuthClientInformationFull] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.access: dict[str, AccessToken] = {}
        self.refresh: dict[str, RefreshToken] = {}
        self.given: list[str] = []

    def app(self, issuer: str, public: str) -> Starlette:
        """Return the server, whose issuer is behind a tunnel and whose ``/authorize`` is not."""
        metadata = build_metadata(AnyHttpUrl(issuer), None, REGISTRATION, REVOCATION)
        metadata.authorization_endpoint = AnyHttpUrl(f"{public}/authorize")
        discovery = Route(
            "/.well-known/oauth-authorization-server", MetadataHandler(metadata).handle
        )
        routes = create_auth_routes(
            self,
            AnyHttpUrl(issuer),
            client_registration_options=REGISTRATION,
            revocation_options=REVOCATION,
        )
        return Starlette(routes=[discovery, *routes])

    def resource(self, issuer: str, url: str) -> MCPServer:
        """Return an MCP server at a URL that takes this authority's tokens."""
        auth = AuthSettings(
            issuer_url=AnyHttpUrl(issuer),
            resource_server_url=AnyHttpUrl(url),
            validate_token_resource=True,
        )
        server = MCPServer("ledger", token_verifier=self, auth=auth)

        @server.tool()
        def add(a: int, b: int) -> str:
            """Add two numbers."""
            return str(a + b)

        return server

    def lose(self, *, grants: bool = False) -> None:
        """Forget every access token, and every refresh token too if asked to."""
        self.access.clear()
        if grants:
            self.refresh.clear()

    def grant(self, client: OAuthClientInformationFull, resource: str) -> OAuthToken:
        """Give a client tokens as though its user had just agreed."""
        return self._tokens(str(client.client_id), [], resource)

    async def verify_token(self, token: str) -> AccessToken | None:
        return await self.load_access_token(token)

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        self.clients[str(client_info.client_id)] = client_info

    async def authorize(
        self, client: OAuthClientInformationFull, params: AuthorizationParams
    ) -> str:
        code = AuthorizationCode(
            code=self._new("code"),
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=str(client.client_id),
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        self.codes[code.code] = code
        return construct_redirect_uri(str(params.redirect_uri), code=code.code, state=params.state)

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        del self.codes[authorization_code.code]
        code = authorization_code
        return self._tokens(code.client_id, code.scopes, code.resource)

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: str
    ) -> RefreshToken | None:
        return self.refresh.get(refresh_token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        del self.refresh[refresh_token.token]
        return self._tokens(str(client.client_id), scopes, refresh_token.resource)

    async def load_access_token(self, token: str) -> AccessToken | None:
        return self.access.get(token)

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        self.lose(grants=True)

    def _tokens(self, client_id: str, scopes: list[str], resource: str | None) -> OAuthToken:
        access, refresh = self._new("access"), self._new("refresh")
        self.access[access] = AccessToken(
            token=access, client_id=client_id, scopes=scopes, resource=resource
        )
        self.refresh[refresh] = RefreshToken(
            token=refresh, client_id=client_id, scopes=scopes, resource=resource
        )
        return OAuthToken(
            access_token=access, refresh_token=refresh, expires_in=LIFETIME_S, scope=None
        )

    def _new(self, kind: str) -> str:
        made = f"planted-{kind}-{secrets.token_urlsafe(24)}"
        self.given.append(made)
        return made
