"""Our own ``/x/sessions/{id}/repositories``: what the sandbox of a cloud session clones.

For whoever runs the sandbox, with its work item's token and nobody else's.
"""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.replies import reply
from intramuros.control.api.sandbox_files import Holder
from intramuros.protocol.resources.repositories import RepositoryReport

router = APIRouter(prefix="/x/sessions/{session_id}/repositories", tags=["sandbox files"])

ReportBody = Annotated[RepositoryReport, Depends(Body(RepositoryReport))]


@router.post("")
async def reveal(caller: Holder, svc: ServicesDep, session_id: str) -> Response:
    """Say what to clone, tokens included; a POST, because each time is a use of secrets."""
    found = await svc.db.write(lambda tx: svc.checkouts.reveal(tx, caller, session_id))
    return reply({"data": found})


@router.post("/{resource_id}")
async def report(
    caller: Holder, svc: ServicesDep, session_id: str, resource_id: str, body: ReportBody
) -> Response:
    """Take what became of a checkout; the same attempt twice is one."""
    await svc.db.write(lambda tx: svc.checkouts.report(tx, caller, session_id, resource_id, body))
    return reply({"id": resource_id, "type": "repository_report"})
