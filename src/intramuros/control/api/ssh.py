"""Our own ``/x/…/ssh_certificates``: how people enter the sandbox of a session from afar."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import Operator, ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.replies import reply
from intramuros.protocol.resources.ssh import SshCertificateRequest

router = APIRouter(prefix="/x", tags=["ssh"])

CertificateBody = Annotated[SshCertificateRequest, Depends(Body(SshCertificateRequest))]


@router.get("/ssh_authority")
async def authority(_caller: Operator, svc: ServicesDep) -> Response:
    """Return the public key that workers are to trust, if their operators want that."""
    return reply({"type": "ssh_authority", "public_key": svc.visits.public_line})


@router.post("/sessions/{session_id}/ssh_certificates")
async def certify(
    caller: Operator, svc: ServicesDep, session_id: str, body: CertificateBody
) -> Response:
    """Certify a key for the sandbox of a session, for minutes."""
    return reply(await svc.db.write(lambda tx: svc.visits.certify(tx, caller, session_id, body)))
