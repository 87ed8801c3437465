"""Our own ``/x/sessions/{id}/releases``: what a worker holds back until a person lets it out.

Workers ask with their work item's token, self-hosted or not; people answer with an API key.
"""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import Gate, Operator, ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.replies import reply
from intramuros.control.api.spills import Holder
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.protocol.resources.releases import ReleaseRequest, ReleaseVerdict

router = APIRouter(prefix="/x/sessions/{session_id}/releases", tags=["releases"])

Reader = Annotated[
    Principal,
    Depends(Gate(kinds=(CredentialKind.API_KEY, CredentialKind.SESSIONS_TOKEN), beta=None)),
]
AskBody = Annotated[ReleaseRequest, Depends(Body(ReleaseRequest))]
VerdictBody = Annotated[ReleaseVerdict, Depends(Body(ReleaseVerdict))]


@router.post("")
async def ask(caller: Holder, svc: ServicesDep, session_id: str, body: AskBody) -> Response:
    """Keep a worker's question; the same one again is the same."""
    return reply(await svc.db.write(lambda tx: svc.releases.ask(tx, caller, session_id, body)))


@router.get("")
async def find(caller: Reader, svc: ServicesDep, session_id: str) -> Response:
    """List a session's newest 100 questions, the newest first."""
    found = await svc.db.read(lambda tx: svc.releases.find(tx, caller, session_id))
    return reply({"data": found})


@router.get("/{release_id}")
async def get(caller: Reader, svc: ServicesDep, session_id: str, release_id: str) -> Response:
    """Return a question with its answer, if there is one."""
    return reply(await svc.db.read(lambda tx: svc.releases.get(tx, caller, session_id, release_id)))


@router.post("/{release_id}")
async def decide(
    caller: Operator, svc: ServicesDep, session_id: str, release_id: str, body: VerdictBody
) -> Response:
    """Allow what is held back to leave, or deny it."""
    return reply(
        await svc.db.write(lambda tx: svc.releases.decide(tx, caller, session_id, release_id, body))
    )
