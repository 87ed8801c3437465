"""``/v1/sessions/{id}/threads``: the primary thread, which every session has, and its children."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from intramuros.control.api.access import Developer, ServicesDep
from intramuros.control.api.events import Line, PreviewQuery, list_events, stream_events
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.api.sessions import Reader
from intramuros.control.identity.principal import Principal
from intramuros.control.session import present, threads
from intramuros.control.session.sessions import SessionRow
from intramuros.control.session.threads import ThreadRow
from intramuros.control.store import events
from intramuros.control.store.db import Tx
from intramuros.control.store.events import PAGE_LIMIT
from intramuros.control.store.records import primary_thread_id
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.sessions import SessionStatus

router = APIRouter(prefix="/v1/sessions/{session_id}/threads", tags=["threads"])

StatusesQuery = Annotated[list[SessionStatus] | None, Query(alias="statuses[]")]
Shown = dict[str, Any]


@router.get("")
async def find(
    caller: Reader,
    svc: ServicesDep,
    session_id: str,
    statuses: StatusesQuery = None,
    limit: int | None = None,
    page_cursor: Annotated[str | None, Query(alias="page")] = None,
) -> Response:
    """List a session's threads, the primary one first, then by age (contract 4.22, 19.5)."""
    size = check_limit(limit, PAGE_LIMIT, PAGE_LIMIT)
    wanted = sorted(statuses or ())
    bound = {"list": "threads", "session": session_id, "statuses": wanted}
    at_us, last_id = svc.cursors.open(bound, page_cursor) if page_cursor else (None, None)
    after = None if at_us is None else (int(at_us), str(last_id))

    def read(tx: Tx) -> tuple[list[Shown], tuple[int, str] | None]:
        row = svc.sessions.get(tx, caller, session_id)
        first = [] if after else [_primary(svc, row)]
        shown = [one for one in first if not wanted or one["status"] in wanted]
        rows, more = threads.find(
            tx, session_id, statuses=wanted, limit=size - len(shown), after=after
        )
        last = rows[-1] if rows else None
        place = (last.created_us, last.id) if last is not None else (0, "")
        return shown + [_child(svc, row, child) for child in rows], place if more else None

    shown, place = await svc.db.page(read)
    return reply(page(shown, svc.cursors.seal(bound, place) if place else None))


@router.get("/{thread_id}")
async def retrieve(caller: Reader, svc: ServicesDep, session_id: str, thread_id: str) -> Response:
    """Return a thread."""
    row, child = await _find(svc, caller, session_id, thread_id)
    return reply(_primary(svc, row) if child is None else _child(svc, row, child))


@router.post("/{thread_id}/archive")
async def archive(caller: Developer, svc: ServicesDep, session_id: str, thread_id: str) -> Response:
    """Archive a child thread; the primary thread ends with its session (contract 19.7)."""
    row, child = await _find(svc, caller, session_id, thread_id)
    if child is None:
        if row.archived_us is None:
            raise InvalidRequest(
                "the primary thread lives as long as its session; archive the session"
            )
        return reply(_primary(svc, row))
    ended = await svc.db.write(
        lambda tx: svc.sessions.archive_thread(tx, caller, session_id, thread_id)
    )
    return reply(_child(svc, row, ended))


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
    _, child = await _find(svc, caller, session_id, thread_id)
    query = events.Query(limit=check_limit(limit, PAGE_LIMIT, PAGE_LIMIT))
    if child is not None:
        query = replace(query, thread_id=thread_id)
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
    _, child = await _find(svc, caller, session_id, thread_id)
    line = None if child is None else Line(thread_id, ended=child.status == "terminated")
    return await stream_events(svc, caller, session_id, event_deltas, thread=line)


async def _find(
    svc: Services, caller: Principal, session_id: str, thread_id: str
) -> tuple[SessionRow, ThreadRow | None]:
    """Return the session and the child thread; None for the primary thread."""

    def read(tx: Tx) -> tuple[SessionRow, ThreadRow | None]:
        row = svc.sessions.get(tx, caller, session_id)
        if thread_id == primary_thread_id(session_id):
            return row, None
        return row, threads.get(tx, session_id, thread_id)

    return await svc.db.read(read)


def _primary(svc: Services, row: SessionRow) -> Shown:
    return present.thread(row, to_micros(svc.clock.now()))


def _child(svc: Services, row: SessionRow, child: ThreadRow) -> Shown:
    now_us = to_micros(svc.clock.now())
    return present.child(child, row.id, primary_thread_id(row.id), now_us)
