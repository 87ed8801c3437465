"""``/v1/sessions/{id}/resources``: what a session has mounted."""

from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from intramuros.control.api.access import ServicesDep
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.sessions import Reader

router = APIRouter(prefix="/v1/sessions/{session_id}/resources", tags=["sessions"])

MAX_PAGE: Final = 1000


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
    shown = row.resources[seen : seen + size]
    more = len(row.resources) > seen + size
    return reply(page(shown, svc.cursors.seal(bound, (seen + size,)) if more else None))
