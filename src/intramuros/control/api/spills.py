"""Our own ``/x/sessions/{id}/spills``: long results that a worker lays out in the sandbox.

For whoever serves the session, self-hosted or not, with its work item's token and nobody else's.
"""

import re
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import Gate, ServicesDep
from intramuros.control.api.downloads import download
from intramuros.control.api.replies import reply
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.session import spills
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest

router = APIRouter(prefix="/x/sessions/{session_id}/spills", tags=["sandbox files"])

_EVENT_ID: Final = re.compile(r"sevt_[0-9A-Za-z]{1,64}")

Holder = Annotated[
    Principal, Depends(Gate(kinds=(CredentialKind.SESSIONS_TOKEN,), scope=None, beta=None))
]


@router.get("")
async def find(caller: Holder, svc: ServicesDep, session_id: str) -> Response:
    """List the long results that are kept, by the call's id, oldest first."""

    def read(tx: Tx) -> dict[str, Blob]:
        svc.sessions.get(tx, caller, session_id)
        return spills.of_session(tx, session_id)

    found = await svc.db.read(read)
    data = [
        {"tool_use_id": use_id, "size_bytes": blob.size_bytes, "sha256": blob.sha256}
        for use_id, blob in found.items()
    ]
    return reply({"data": data})


@router.get("/{tool_use_id}")
async def content(caller: Holder, svc: ServicesDep, session_id: str, tool_use_id: str) -> Response:
    """Return the whole text of a long result, as UTF-8."""

    def read(tx: Tx) -> Blob:
        svc.sessions.get(tx, caller, session_id)
        if _EVENT_ID.fullmatch(tool_use_id) is None:
            raise InvalidRequest("tool_use_id: no event id")
        return spills.get(tx, session_id, tool_use_id)

    blob = await svc.db.read(read)
    return await download(svc.blobs, blob, f"{tool_use_id}.txt", "text/plain; charset=utf-8", None)
