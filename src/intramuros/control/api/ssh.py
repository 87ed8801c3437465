"""Our own ``/x/…/ssh_certificates``: how people enter the sandbox of a session from afar.

And how that is taken back: workers ask ``/x/ssh_revocations``, see ``protocol/ssh_revocations.py``.
"""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from starlette.responses import Response

from intramuros.control.api.access import Gate, Operator, ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.replies import reply
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.protocol.resources.ssh import SshCertificateRequest, SshRevokeRequest
from intramuros.protocol.ssh_revocations import PATH

router = APIRouter(tags=["ssh"])

CertificateBody = Annotated[SshCertificateRequest, Depends(Body(SshCertificateRequest))]
RevokeBody = Annotated[SshRevokeRequest, Depends(Body(SshRevokeRequest))]
Worker = Annotated[
    Principal,
    Depends(
        Gate(
            kinds=(CredentialKind.ENVIRONMENT_KEY, CredentialKind.POOL_KEY),
            beta=None,
            organization=True,
        )
    ),
]
_NOT_MODIFIED = 304


@router.get("/x/ssh_authority")
async def authority(_caller: Operator, svc: ServicesDep) -> Response:
    """Return the public key that workers are to trust, if their operators want that."""
    return reply({"type": "ssh_authority", "public_key": svc.visits.public_line})


@router.post("/x/sessions/{session_id}/ssh_certificates")
async def certify(
    caller: Operator, svc: ServicesDep, session_id: str, body: CertificateBody
) -> Response:
    """Certify a key for the sandbox of a session, for minutes."""
    return reply(await svc.db.write(lambda tx: svc.visits.certify(tx, caller, session_id, body)))


@router.get("/x/sessions/{session_id}/ssh_certificates")
async def find(caller: Operator, svc: ServicesDep, session_id: str) -> Response:
    """List a session's newest 100 certificates by which somebody may be in, the newest first."""
    return reply({"data": await svc.db.read(lambda tx: svc.visits.find(tx, caller, session_id))})


@router.post("/x/sessions/{session_id}/ssh_certificates/revoke")
async def revoke(caller: Operator, svc: ServicesDep, session_id: str, body: RevokeBody) -> Response:
    """Take back one certificate of a session, or all; whoever is in by them is out in seconds."""
    found = await svc.db.write(lambda tx: svc.visits.revoke(tx, caller, session_id, body))
    return reply({"data": found})


@router.get(PATH)
async def revocations(
    caller: Worker,
    svc: ServicesDep,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Tell a worker which certificates for its sessions were taken back; 304 if it knows."""
    found = await svc.db.read(lambda tx: svc.visits.revocations(tx, caller))
    answer = reply(found.dump())
    etag = f'"{hashlib.sha256(bytes(answer.body)).hexdigest()[:32]}"'
    if if_none_match == etag:
        answer = Response(status_code=_NOT_MODIFIED)
    answer.headers.update({"etag": etag, "cache-control": "no-store"})
    return answer
