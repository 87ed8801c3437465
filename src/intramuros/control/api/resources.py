"""``/v1/sessions/{id}/resources``: what a session has mounted, and files added and removed."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from intramuros.control.api.access import Developer, ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.files import discard
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.sessions import Reader
from intramuros.control.session import uploads
from intramuros.protocol.resources.mounts import FileParam
from intramuros.protocol.resources.repositories import ResourceUpdate

router = APIRouter(prefix="/v1/sessions/{session_id}/resources", tags=["sessions"])

MAX_PAGE: Final = 1000

AddBody = Annotated[FileParam, Depends(Body(FileParam))]
UpdateBody = Annotated[ResourceUpdate, Depends(Body(ResourceUpdate))]


@router.get("")
async def find(
    caller: Reader,
    svc: ServicesDep,
    session_id: str,
    limit: int | None = None,
    page_cursor: Annotated[str | None, Query(alias="page")] = None,
) -> Response:
    """List a session's resources in the order they came (contract 4.17, 4.22)."""
    size = check_limit(limit, MAX_PAGE, MAX_PAGE)
    bound = {"list": "resources", "session": session_id}
    seen = svc.cursors.open(bound, page_cursor)[0] if page_cursor else 0
    row = await svc.db.read(lambda tx: svc.sessions.get(tx, caller, session_id))
    shown = [uploads.public(resource) for resource in row.resources[seen : seen + size]]
    more = len(row.resources) > seen + size
    return reply(page(shown, svc.cursors.seal(bound, (seen + size,)) if more else None))


@router.post("")
async def add(caller: Developer, svc: ServicesDep, session_id: str, body: AddBody) -> Response:
    """Mount one more file (contract 11.2)."""
    made = await svc.db.write(lambda tx: svc.sessions.add_file(tx, caller, session_id, body))
    return reply(made)


@router.get("/{resource_id}")
async def retrieve(
    caller: Developer, svc: ServicesDep, session_id: str, resource_id: str
) -> Response:
    """Return a resource."""
    row = await svc.db.read(lambda tx: svc.sessions.get(tx, caller, session_id))
    return reply(uploads.get(row.resources, resource_id))


@router.post("/{resource_id}")
async def update(
    caller: Developer, svc: ServicesDep, session_id: str, resource_id: str, body: UpdateBody
) -> Response:
    """Rotate a repository's token; no other resource has one (contract 11.8)."""
    token = body.authorization_token
    changed = await svc.db.write(
        lambda tx: svc.sessions.rotate_token(tx, caller, session_id, resource_id, token)
    )
    return reply(changed)


@router.delete("/{resource_id}")
async def delete(
    caller: Developer, svc: ServicesDep, session_id: str, resource_id: str
) -> Response:
    """Take a file out of a session (contract-2 R186)."""
    keys = await svc.db.write(
        lambda tx: svc.sessions.remove_file(tx, caller, session_id, resource_id)
    )
    await discard(svc, keys)
    return reply({"id": resource_id, "type": "session_resource_deleted"})
