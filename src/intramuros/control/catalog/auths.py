"""What a credential is: its public half, its secret half, and the key it answers to. Pure.

The public half is shown; the secret half is sealed and never shown. The key is what two active
credentials of a vault may not share (R046), and for MCP servers it is how one is found (R076).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.vaults import (
    AuthCreate,
    AuthUpdate,
    BearerCreate,
    BearerUpdate,
    OAuthCreate,
    OAuthUpdate,
    Refresh,
    RefreshUpdate,
    SecretAuth,
    VariableCreate,
    VariableUpdate,
)

Public = dict[str, Any]
Secret = dict[str, str]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_BEARERS: Final = frozenset({"mcp_oauth", "static_bearer"})


@dataclass(frozen=True)
class Auth:
    """A credential's two halves; the secret half must never be printed."""

    public: Public
    secret: Secret

    def __repr__(self) -> str:
        """Show the public half only."""
        return f"Auth({self.public!r})"

    @property
    def key(self) -> str:
        """Return what no other active credential of the vault may answer to."""
        if self.public["type"] in _BEARERS:
            return server_key(self.public["mcp_server_url"])
        return f"variable {self.public['secret_name']}"

    def bearer(self) -> str | None:
        """Return what goes into an MCP server's ``Authorization`` header, or None."""
        return self.secret.get("access_token") or self.secret.get("token")


def server_key(url: str) -> str:
    """Return an MCP server's URL as credentials are matched to it.

    Scheme and host in small letters, no default port, no trailing slashes (R076); what remains
    must be equal: there is no prefix match (R077).
    """
    parts = urlsplit(url)
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    shown = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(scheme)) else f":{parts.port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"server {scheme}://{shown}{port}{parts.path.rstrip('/')}{query}"


def configure(request: AuthCreate, now: str) -> Auth:
    """Return a new credential's halves.

    Args:
        now: the time, as timestamps are written.

    Raises:
        InvalidRequest: it has expired already (R053).
    """
    match request:
        case OAuthCreate():
            return _oauth(request, now)
        case BearerCreate():
            public = {"type": request.type, "mcp_server_url": request.mcp_server_url}
            return Auth(public, {"token": request.token})
        case VariableCreate():
            return Auth(
                {
                    "type": request.type,
                    "secret_name": request.secret_name,
                    "networking": request.networking.model_dump(),
                    "injection_location": request.injection_location.model_dump(),
                },
                {"secret_value": request.secret_value},
            )


def amend(current: Auth, request: AuthUpdate, now: str) -> Auth:
    """Return the halves after an update; what was not sent stays.

    Raises:
        InvalidRequest: of another type (R050), or not something that may change so.
    """
    if request.type != current.public["type"]:
        raise InvalidRequest(
            f"auth.type: this credential is of type {current.public['type']!r}, "
            "and the type cannot change"
        )
    match request:
        case OAuthUpdate():
            return _amend_oauth(current, request, now)
        case BearerUpdate():
            return replace(current, secret=_with(current.secret, token=request.token))
        case VariableUpdate():
            return _amend_variable(current, request)


def renewed(
    current: Auth, access_token: str, refresh_token: str | None, expires_at: str | None
) -> Auth:
    """Return the halves after a refresh; a refresh token that was not replaced stays (R082)."""
    secret = _with(current.secret, access_token=access_token, refresh_token=refresh_token)
    return Auth({**current.public, "expires_at": expires_at}, secret)


def kept_out(credential: Public, environment: Mapping[str, Any]) -> list[str]:
    """Return the hosts of an environment-variable credential that the environment keeps from it.

    Args:
        credential: its public half.
        environment: the environment's configuration.

    Returns:
        the hosts in the credential's order; ``*`` stands for all of them. Nothing of a
        self-hosted sandbox goes through a proxy of ours, so that nothing is injected there.
    """
    hosts: list[str] = credential["networking"].get("allowed_hosts", ["*"])
    if environment["type"] == "self_hosted":
        return list(hosts)
    networking = environment["networking"]
    if networking["type"] == "unrestricted" or hosts == ["*"]:
        return []
    return [host for host in hosts if not _covered(host, networking["allowed_hosts"])]


def _covered(host: str, allowed: list[str]) -> bool:
    """Tell whether an entry lets through all that a credential's entry means (R064)."""
    name = host.lower()
    for entry in (entry.lower() for entry in allowed):
        if entry == name:
            return True
        if entry.startswith("*.") and name.removeprefix("*").endswith(entry[1:]):
            # ``*.b.c`` lets ``a.b.c`` and ``*.a.b.c`` through, but not ``b.c``.
            return True
    return False


def _oauth(request: OAuthCreate, now: str) -> Auth:
    _check_future(request.expires_at, now)
    public = {
        "type": request.type,
        "mcp_server_url": request.mcp_server_url,
        "expires_at": request.expires_at,
        "refresh": _refresh(request.refresh),
    }
    secret = {"access_token": request.access_token}
    if request.refresh is not None:
        secret["refresh_token"] = request.refresh.refresh_token
        auth = request.refresh.token_endpoint_auth
        if isinstance(auth, SecretAuth):
            secret["client_secret"] = auth.client_secret
    return Auth(public, secret)


def _refresh(request: Refresh | None) -> Public | None:
    if request is None:
        return None
    return {
        "client_id": request.client_id,
        "token_endpoint": request.token_endpoint,
        "token_endpoint_auth": {"type": request.token_endpoint_auth.type},
        "resource": request.resource,
        "scope": request.scope,
    }


def _amend_oauth(current: Auth, request: OAuthUpdate, now: str) -> Auth:
    public, secret = dict(current.public), _with(current.secret, access_token=request.access_token)
    if request.sent("expires_at"):
        _check_future(request.expires_at, now)
        public["expires_at"] = request.expires_at
    if request.refresh is not None:
        if public["refresh"] is None:
            raise InvalidRequest(
                "auth.refresh: this credential was created without refresh settings; "
                "create another with them"
            )
        public["refresh"] = _amend_refresh(public["refresh"], request.refresh)
        auth = request.refresh.token_endpoint_auth
        fresh = auth.client_secret if auth else None
        secret = _with(secret, refresh_token=request.refresh.refresh_token, client_secret=fresh)
    return Auth(public, secret)


def _amend_refresh(stored: Public, request: RefreshUpdate) -> Public:
    if request.token_endpoint_auth and stored["token_endpoint_auth"]["type"] == "none":
        raise InvalidRequest(
            "auth.refresh.token_endpoint_auth: the token endpoint of this credential takes no "
            "client secret"
        )
    if request.scope is None:
        return stored
    return {**stored, "scope": request.scope or None}


def _amend_variable(current: Auth, request: VariableUpdate) -> Auth:
    public = dict(current.public)
    if request.networking is not None:
        public["networking"] = request.networking.model_dump()
    if request.injection_location is not None:
        places = {**public["injection_location"], **request.injection_location.changes()}
        if not any(places.values()):
            raise InvalidRequest(
                "auth.injection_location: at least one of header and body must stay true"
            )
        public["injection_location"] = places
    return Auth(public, _with(current.secret, secret_value=request.secret_value))


def _with(secret: Mapping[str, str], **changes: str | None) -> Secret:
    kept = {name: value for name, value in changes.items() if value is not None}
    return {**secret, **kept}


def _check_future(expires_at: str | None, now: str) -> None:
    # Both are written in one form, in which the order of texts is the order of times.
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("auth.expires_at: must lie in the future")
