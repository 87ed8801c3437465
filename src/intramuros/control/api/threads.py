"""``/v1/sessions/{id}/threads``: the primary thread, which every session has."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from intramuros.control.api.access import Developer, ServicesDep
from intramuros.control.api.events import PreviewQuery, list_events, stream_events
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.api.sessions import Reader
from intramuros.control.identity.principal import Principal
from intramuros.control.session import present
from intramuros.control.session.sessions import SessionRow
from intramuros.control.store import events
from intramuros.control.store.events import PAGE_LIMIT
from intramuros.control.store.records import primary_thread_id
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.sessions import SessionStatus

router = APIRouter(prefix="/v1/sessions/{session_id}/threads", tags=["threads"])

StatusesQuery = Annotated[list[SessionStatus] | None, Query(alias="statuses[]")]


@router.get("")
async def find(
    caller: Reader,
    svc: ServicesDep,
    session_id: str,
    statuses: StatusesQuery = None,
    limit: int | None = None,
    page_cursor: Annotated[str | None, Query(alias="page")] = None,
) -> Response:
    """List a session's threads, the primary one first (contract 4.22)."""
    check_limit(limit, PAGE_LIMIT, PAGE_LIMIT)
    if page_cursor:
        raise InvalidRequest("page: this list has one page")
    row = await svc.db.read(lambda tx: svc.sessions.get(tx, caller, session_id))
    shown = [] if statuses and row.status not in statuses else [_thread(svc, row)]
    return reply(page(shown, None))


@router.get("/{thread_id}")
async def retrieve(caller: Reader, svc: ServicesDep, session_id: str, thread_id: str) -> Response:
    """Return a thread."""
    return reply(_thread(svc, await _find(svc, caller, session_id, thread_id)))


@router.post("/{thread_id}/archive")
async def archive(caller: Developer, svc: ServicesDep, session_id: str, thread_id: str) -> Response:
    """Refuse: the primary thread ends with its session (contract 19.7 is about children)."""
    row = await _find(svc, caller, session_id, thread_id)
    if row.archived_us is None:
        raise InvalidRequest("the primary thread lives as long as its session; archive the session")
    return reply(_thread(svc, row))


@router.get("/{thread_id}/events")
async def find_events(
    caller: Reader,
    svc: ServicesDep,
    session_id: str,
    thread_id: str,
    limit: int | None = None,
    page: str | None = None,
) -> Response:
    """List a thread's events (contract 16.5)."""
    await _find(svc, caller, session_id, thread_id)
    query = events.Query(limit=check_limit(limit, PAGE_LIMIT, PAGE_LIMIT))
    return await list_events(svc, caller, session_id, query, page)


@router.get("/{thread_id}/stream")
async def stream(
    caller: Reader,
    svc: ServicesDep,
    session_id: str,
    thread_id: str,
    event_deltas: PreviewQuery = None,
) -> Response:
    """Stream a thread's events from now on (contract 17.1)."""
    await _find(svc, caller, session_id, thread_id)
    return await stream_events(svc, caller, session_id, event_deltas)


async def _find(svc: Services, caller: Principal, session_id: str, thread_id: str) -> SessionRow:
    row = await svc.db.read(lambda tx: svc.sessions.get(tx, caller, session_id))
    if thread_id != primary_thread_id(session_id):
        raise NotFound(f"no thread {thread_id!r} in this session")
    return row


def _thread(svc: Services, row: SessionRow) -> dict[str, object]:
    return present.thread(row, to_micros(svc.clock.now()))
