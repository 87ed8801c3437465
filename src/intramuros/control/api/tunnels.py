"""``/v1/tunnels`` with tokens and certificates."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import ServicesDep, TunnelManager, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.lists import PagingDep, list_resources
from intramuros.control.api.replies import reply
from intramuros.control.catalog import certificates, service, tunnels
from intramuros.control.catalog.kinds import CERTIFICATE, TUNNEL
from intramuros.protocol.resources.tunnels import CertificateCreate, TokenReason, TunnelCreate

router = APIRouter(prefix="/v1/tunnels", tags=["tunnels"])

CreateBody = Annotated[TunnelCreate, Depends(Body(TunnelCreate))]
ReasonBody = Annotated[TokenReason, Depends(Body(TokenReason))]
CertificateBody = Annotated[CertificateCreate, Depends(Body(CertificateCreate))]


@router.post("")
async def create(caller: TunnelManager, svc: ServicesDep, body: CreateBody) -> Response:
    """Create a tunnel with a domain of its own."""
    actor = actor_of(svc, caller)
    made = await svc.db.write(lambda tx: tunnels.create(tx, actor, svc.issuer, body))
    return reply(tunnels.present(made))


@router.get("")
async def find(caller: TunnelManager, svc: ServicesDep, paging: PagingDep) -> Response:
    """List tunnels, newest first."""
    return await list_resources(svc, caller, TUNNEL, tunnels.present, paging)


@router.get("/{tunnel_id}")
async def retrieve(caller: TunnelManager, svc: ServicesDep, tunnel_id: str) -> Response:
    """Return a tunnel."""
    found = await svc.db.read(lambda tx: service.get(tx, caller.workspace_id, TUNNEL, tunnel_id))
    return reply(tunnels.present(found))


@router.post("/{tunnel_id}/archive")
async def archive(caller: TunnelManager, svc: ServicesDep, tunnel_id: str) -> Response:
    """Archive a tunnel and its certificates for good."""
    actor = actor_of(svc, caller)
    archived = await svc.db.write(lambda tx: tunnels.archive(tx, actor, tunnel_id))
    await svc.reach.fence(tunnel_id, archived.body["token_version"] + 1, sever=True)
    return reply(tunnels.present(archived))


@router.post("/{tunnel_id}/reveal_token")
async def reveal_token(
    caller: TunnelManager, svc: ServicesDep, tunnel_id: str, body: ReasonBody
) -> Response:
    """Return the current token; the same until it is rotated."""
    actor = replace(actor_of(svc, caller), reason=body.reason)
    shown = await svc.db.write(lambda tx: tunnels.reveal_token(tx, actor, svc.issuer, tunnel_id))
    return reply(shown)


@router.post("/{tunnel_id}/rotate_token")
async def rotate_token(
    caller: TunnelManager, svc: ServicesDep, tunnel_id: str, body: ReasonBody
) -> Response:
    """Return a new token; the old one opens no new connections."""
    actor = replace(actor_of(svc, caller), reason=body.reason)
    shown, version = await svc.db.write(
        lambda tx: tunnels.rotate_token(tx, actor, svc.issuer, tunnel_id)
    )
    await svc.reach.fence(tunnel_id, version, sever=False)
    return reply(shown)


@router.post("/{tunnel_id}/certificates")
async def create_certificate(
    caller: TunnelManager, svc: ServicesDep, tunnel_id: str, body: CertificateBody
) -> Response:
    """Register a certificate authority on a tunnel."""
    actor = actor_of(svc, caller)
    pem = body.ca_certificate_pem
    made = await svc.db.write(lambda tx: certificates.create(tx, actor, tunnel_id, pem))
    return reply(certificates.present(made))


@router.get("/{tunnel_id}/certificates")
async def find_certificates(
    caller: TunnelManager, svc: ServicesDep, tunnel_id: str, paging: PagingDep
) -> Response:
    """List a tunnel's certificates, newest first."""
    await svc.db.read(lambda tx: service.get(tx, caller.workspace_id, TUNNEL, tunnel_id))
    narrow = {"parent_id": tunnel_id}
    return await list_resources(svc, caller, CERTIFICATE, certificates.present, paging, narrow)


@router.get("/{tunnel_id}/certificates/{certificate_id}")
async def retrieve_certificate(
    caller: TunnelManager, svc: ServicesDep, tunnel_id: str, certificate_id: str
) -> Response:
    """Return a certificate."""
    found = await svc.db.read(
        lambda tx: certificates.get(tx, caller.workspace_id, tunnel_id, certificate_id)
    )
    return reply(certificates.present(found))


@router.post("/{tunnel_id}/certificates/{certificate_id}/archive")
async def archive_certificate(
    caller: TunnelManager, svc: ServicesDep, tunnel_id: str, certificate_id: str
) -> Response:
    """Stop trusting a certificate authority."""
    actor = actor_of(svc, caller)
    archived = await svc.db.write(
        lambda tx: certificates.archive(tx, actor, tunnel_id, certificate_id)
    )
    return reply(certificates.present(archived))
