"""Vaults and the credentials in them (contract-2 sections 2 and 3). Secrets only ever come in."""

from datetime import UTC, datetime
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from intramuros.protocol.resources.base import Metadata, MetadataPatch, Request
from intramuros.protocol.resources.domains import check_allowed_hosts

MAX_CREDENTIAL_HOSTS: Final = 16
MAX_SECRET_CHARS: Final = 16_384
MAX_URL_CHARS: Final = 2048


def check_endpoint(url: str) -> str:
    """Return an absolute http or https URL without credentials in it.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)  # a ValueError for a broken one
    if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
        raise ValueError("expected an absolute http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials do not belong in a URL")
    if not url.isprintable() or " " in url or parts.fragment:
        raise ValueError("must not contain blanks, control characters or a fragment")
    _ = parts.port  # a ValueError when out of range
    return url


def _check_moment(text: str) -> str:
    """Return the timestamp as we write them.

    Raises:
        ValueError: it is none.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ValueError("expected a timestamp such as 2026-01-31T12:00:00Z")
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# What travels in a header must be visible ASCII: anything else would break the request apart.
HeaderSecret = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_SECRET_CHARS, pattern=r"^[\x21-\x7e]+$"),
]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=MAX_SECRET_CHARS)]
Endpoint = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_URL_CHARS), AfterValidator(check_endpoint)
]
Moment = Annotated[str, StringConstraints(max_length=64), AfterValidator(_check_moment)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Text = Annotated[str, StringConstraints(max_length=2048)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")]


class VaultCreate(Request):
    """``POST /v1/vaults``."""

    display_name: Label
    metadata: Metadata | None = None


class VaultUpdate(Request):
    """``POST /v1/vaults/{id}``: what is not sent stays."""

    display_name: Label | None = None
    metadata: MetadataPatch | None = None


class NoAuth(Request):
    """A token endpoint that knows its public client by the id alone."""

    type: Literal["none"]


class SecretAuth(Request):
    """A token endpoint that wants the client's secret, as HTTP Basic or in the body."""

    type: Literal["client_secret_basic", "client_secret_post"]
    client_secret: Secret


class Refresh(Request):
    """How a new access token is had (R054)."""

    client_id: Text
    refresh_token: Secret
    token_endpoint: Endpoint
    token_endpoint_auth: Annotated[NoAuth | SecretAuth, Field(discriminator="type")]
    resource: Text | None = None
    scope: Text | None = None


class OAuthCreate(Request):
    """An OAuth access token for an MCP server (R052)."""

    type: Literal["mcp_oauth"]
    access_token: HeaderSecret
    mcp_server_url: Endpoint
    expires_at: Moment | None = None
    refresh: Refresh | None = None


class BearerCreate(Request):
    """A bearer token for an MCP server that never expires."""

    type: Literal["static_bearer"]
    token: HeaderSecret
    mcp_server_url: Endpoint


class UnrestrictedHosts(Request):
    """Every host that the environment lets through."""

    type: Literal["unrestricted"]


class LimitedHosts(Request):
    """The listed hosts alone (R063)."""

    type: Literal["limited"]
    allowed_hosts: Annotated[
        list[str], Field(max_length=MAX_CREDENTIAL_HOSTS), AfterValidator(check_allowed_hosts)
    ]


Networking = Annotated[UnrestrictedHosts | LimitedHosts, Field(discriminator="type")]


class Locations(Request):
    """Where in a request the secret is put; null is no answer (R068)."""

    header: bool = False
    body: bool = False

    def changes(self) -> dict[str, bool]:
        """Return the flags that were sent."""
        return {name: getattr(self, name) for name in ("header", "body") if self.sent(name)}


class VariableCreate(Request):
    """A secret that programs in the sandbox use through an environment variable (R061)."""

    type: Literal["environment_variable"]
    secret_name: VariableName
    secret_value: Secret
    networking: Networking
    injection_location: Locations = Locations(header=True, body=True)

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not (self.injection_location.header or self.injection_location.body):
            raise ValueError("injection_location: at least one of header and body must be true")
        return self


class SecretAuthUpdate(Request):
    """A new client secret; the stored kind stays, whichever is named (R059)."""

    type: Literal["client_secret_basic", "client_secret_post"]
    client_secret: Secret | None = None


class RefreshUpdate(Request):
    """All that may change of a refresh block (R057); an empty scope clears it (R058)."""

    refresh_token: Secret | None = None
    scope: Text | None = None
    token_endpoint_auth: SecretAuthUpdate | None = None


class OAuthUpdate(Request):
    """A new token, expiry or refresh setting; the server's URL stays (R051)."""

    type: Literal["mcp_oauth"]
    access_token: HeaderSecret | None = None
    expires_at: Moment | None = None
    refresh: RefreshUpdate | None = None


class BearerUpdate(Request):
    """A new token."""

    type: Literal["static_bearer"]
    token: HeaderSecret | None = None


class VariableUpdate(Request):
    """A new value, other hosts or other places; the name stays (R051)."""

    type: Literal["environment_variable"]
    secret_value: Secret | None = None
    networking: Networking | None = None
    injection_location: Locations | None = None

    @field_validator("injection_location", mode="before")
    @classmethod
    def _no_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("must not be null; leave it out to keep what is stored")
        return value


AuthCreate = OAuthCreate | BearerCreate | VariableCreate
AuthUpdate = OAuthUpdate | BearerUpdate | VariableUpdate


class CredentialCreate(Request):
    """``POST /v1/vaults/{id}/credentials``."""

    auth: Annotated[AuthCreate, Field(discriminator="type")]
    display_name: Label | None = None
    metadata: Metadata | None = None


class CredentialUpdate(Request):
    """``POST /v1/vaults/{id}/credentials/{id}``: what is not sent stays."""

    auth: Annotated[AuthUpdate, Field(discriminator="type")] | None = None
    display_name: Label | None = None
    metadata: MetadataPatch | None = None
