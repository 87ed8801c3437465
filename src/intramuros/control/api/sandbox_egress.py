"""Our own ``/x/sessions/{id}/egress``: what the sandbox of a cloud session may reach.

For whoever runs the sandbox, with its work item's token and nobody else's.
"""

from fastapi import APIRouter
from starlette.responses import Response

from intramuros.control.api.access import ServicesDep
from intramuros.control.api.replies import reply
from intramuros.control.api.sandbox_files import Holder

router = APIRouter(prefix="/x/sessions/{session_id}", tags=["sandbox files"])


@router.post("/egress")
async def reveal(caller: Holder, svc: ServicesDep, session_id: str) -> Response:
    """Say what may be reached, secrets included; a POST, because each time is a use of secrets."""
    return reply(await svc.db.write(lambda tx: svc.egress.reveal(tx, caller, session_id)))
