"""Tunnels: their domains, their tokens, and what a dial needs to know (contract-2 section 16)."""

import base64
from dataclasses import dataclass, replace
from typing import Any, Final

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import CERTIFICATE, TUNNEL
from intramuros.control.catalog.service import Query, Resource
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import from_micros, rfc3339
from intramuros.protocol.resources.tunnels import TunnelCreate
from intramuros.protocol.tickets import SigningKey, TunnelToken

Shown = dict[str, Any]

MAX_ACTIVE_TUNNELS: Final = 10
MAX_ACTIVE_CERTIFICATES: Final = 2
# 80 random bits: a domain is never used again, and nobody finds one by guessing.
_DOMAIN_BYTES: Final = 10


@dataclass(frozen=True)
class Issuer:
    """Makes tunnel domains and tokens.

    ``base_domain`` is the server's setting; tunnels live under ``tunnel.<base_domain>``.
    """

    key: SigningKey
    base_domain: str

    def new_domain(self, ids: IdFactory) -> str:
        """Return a domain that no tunnel ever had."""
        label = base64.b32encode(ids.random(_DOMAIN_BYTES)).decode().lower()
        return f"{label}.tunnel.{self.base_domain}"

    def token(self, tunnel: Resource) -> str:
        """Return the tunnel's current token: the same until it is rotated (R305)."""
        body = tunnel.body
        return self.key.mint_tunnel_token(
            TunnelToken(tunnel.id, body["domain"], body["token_version"])
        )


@dataclass(frozen=True)
class Route:
    """What a dial needs: the tunnel, the lowest good token version and the authorities to trust."""

    tunnel_id: str
    domain: str
    token_version: int
    rotated_us: int
    """When the token was made, microseconds; nothing else of a tunnel ever changes."""
    ca_pems: tuple[str, ...]


def create(tx: Tx, actor: Actor, issuer: Issuer, request: TunnelCreate) -> Resource:
    """Store a new tunnel with a new domain; never idempotent (R299).

    Raises:
        InvalidRequest: the organization has ten active tunnels already (R301).
    """
    active, _ = service.find(tx, actor.workspace_id, TUNNEL, Query(limit=MAX_ACTIVE_TUNNELS))
    if len(active) >= MAX_ACTIVE_TUNNELS:
        raise InvalidRequest(
            f"at most {MAX_ACTIVE_TUNNELS} active tunnels; archive one that is not used"
        )
    body = {
        "display_name": request.display_name,
        "domain": issuer.new_domain(actor.ids),
        "token_version": 1,
        "token_id": actor.ids.new("ttok"),
    }
    return service.create(tx, actor, TUNNEL, body)


def archive(tx: Tx, actor: Actor, tunnel_id: str) -> Resource:
    """Archive a tunnel and its certificates, for good; a repeat changes nothing (R304)."""
    tunnel = service.get(tx, actor.workspace_id, TUNNEL, tunnel_id)
    if tunnel.archived_us is None:
        for certificate in active_certificates(tx, tunnel):
            service.archive(tx, actor, certificate)
    return service.archive(tx, actor, tunnel)


def reveal_token(tx: Tx, actor: Actor, issuer: Issuer, tunnel_id: str) -> Shown:
    """Return the current token, with an audit record (R307).

    Raises:
        NotFound: no such tunnel here.
        InvalidRequest: archived.
    """
    tunnel = _active(tx, actor, tunnel_id)
    _audit_token(tx, actor, "tunnel_token.reveal", tunnel)
    return _shown_token(issuer, tunnel)


def rotate_token(tx: Tx, actor: Actor, issuer: Issuer, tunnel_id: str) -> tuple[Shown, int]:
    """Return a new token and its version; the old value opens no new connections (R306).

    Raises:
        NotFound: no such tunnel here.
        InvalidRequest: archived.
    """
    tunnel = _active(tx, actor, tunnel_id)
    body = {
        **tunnel.body,
        "token_version": tunnel.body["token_version"] + 1,
        "token_id": actor.ids.new("ttok"),
    }
    _audit_token(tx, actor, "tunnel_token.rotate", replace(tunnel, body=body))
    rotated = service.change(tx, actor, TUNNEL, tunnel, body)
    return _shown_token(issuer, rotated), rotated.body["token_version"]


def active_certificates(tx: Tx, tunnel: Resource) -> list[Resource]:
    """Return the certificates that a tunnel trusts now, newest first."""
    found, _ = service.find(
        tx,
        tunnel.workspace_id,
        CERTIFICATE,
        Query(limit=MAX_ACTIVE_CERTIFICATES, parent_id=tunnel.id),
    )
    return found


def route(tx: Tx, workspace_id: str, host: str) -> Route | None:
    """Return how to reach a host through a tunnel of this workspace, or None if none owns it.

    A tunnel without an active certificate is returned with no authorities: such a dial must be
    refused (R302), not sent elsewhere.
    """
    lowered = host.lower().rstrip(".")
    tunnels, _ = service.find(tx, workspace_id, TUNNEL, Query(limit=MAX_ACTIVE_TUNNELS))
    for tunnel in tunnels:
        if lowered.endswith("." + tunnel.body["domain"]):
            return Route(
                tunnel.id,
                tunnel.body["domain"],
                tunnel.body["token_version"],
                tunnel.updated_us,
                tuple(c.body["pem"] for c in active_certificates(tx, tunnel)),
            )
    return None


def present(tunnel: Resource) -> Shown:
    """Return the tunnel as answers show it, without anything of its token (R305)."""
    archived_us = tunnel.archived_us
    return {
        "id": tunnel.id,
        "type": "tunnel",
        "domain": tunnel.body["domain"],
        "display_name": tunnel.body["display_name"],
        "created_at": rfc3339(from_micros(tunnel.created_us)),
        "archived_at": None if archived_us is None else rfc3339(from_micros(archived_us)),
    }


def _active(tx: Tx, actor: Actor, tunnel_id: str) -> Resource:
    tunnel = service.get(tx, actor.workspace_id, TUNNEL, tunnel_id)
    service.check_active(TUNNEL, tunnel)
    return tunnel


def _shown_token(issuer: Issuer, tunnel: Resource) -> Shown:
    return {
        "id": tunnel.body["token_id"],
        "type": "tunnel_token",
        "tunnel_token": issuer.token(tunnel),
        # Ours; gateways know by it which calls come from here.
        "control_key": issuer.key.public_pem().decode(),
    }


def _audit_token(tx: Tx, actor: Actor, kind: str, tunnel: Resource) -> None:
    audit.record(
        tx,
        actor.clock,
        kind,
        workspace_id=actor.workspace_id,
        fields={
            "id": tunnel.body["token_id"],
            "by": actor.by,
            "tunnel_id": tunnel.id,
            "token_version": tunnel.body["token_version"],
            "reason": actor.reason,
        },
    )
