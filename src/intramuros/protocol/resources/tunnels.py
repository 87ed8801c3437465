"""Tunnels, their tokens and their certificates (contract-2 section 16)."""

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from intramuros.protocol.resources.base import Request, Response, Timestamp

MAX_PEM_CHARS: Final = 8 * 1024


class TunnelCreate(Request):
    """``POST /v1/tunnels``."""

    display_name: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None


class TokenReason(Request):
    """``POST /v1/tunnels/{id}/reveal_token`` and ``rotate_token``."""

    reason: Annotated[str, StringConstraints(max_length=1024)] | None = None


class CertificateCreate(Request):
    """``POST /v1/tunnels/{id}/certificates``."""

    ca_certificate_pem: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PEM_CHARS)]


class Tunnel(Response):
    """A tunnel; its token is never part of it."""

    id: str
    type: Literal["tunnel"]
    domain: str
    display_name: str | None
    created_at: Timestamp
    archived_at: Timestamp | None


class TunnelToken(Response):
    """A tunnel's current token."""

    id: str
    type: Literal["tunnel_token"]
    tunnel_token: str
    control_key: str = Field(description="Our addition: the public key that signs calls, PEM.")


class TunnelCertificate(Response):
    """A certificate authority that a tunnel trusts."""

    id: str
    type: Literal["tunnel_certificate"]
    tunnel_id: str
    fingerprint: str
    created_at: Timestamp
    expires_at: Timestamp | None
    archived_at: Timestamp | None
