"""``/v1/memory_stores/{id}/memories`` and ``/memory_versions``."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from intramuros.control.api.access import ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.lists import CreatedDep
from intramuros.control.api.memory_stores import Keeper, User
from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.catalog import memories, memory_stores, memory_versions
from intramuros.control.catalog.memory_versions import Author, Writer, author_of
from intramuros.control.identity.principal import Principal
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.memory import (
    MemoryCreate,
    MemoryUpdate,
    Operation,
    View,
    check_prefix,
)

router = APIRouter(prefix="/v1/memory_stores/{memory_store_id}/memories", tags=["memories"])
versions_router = APIRouter(
    prefix="/v1/memory_stores/{memory_store_id}/memory_versions", tags=["memories"]
)

DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 100
# Contents come in smaller pages, whatever was asked for (R157).
MAX_FULL_PAGE: Final = 20

# Files that agents write may hold any character; a path's are checked.
CreateBody = Annotated[MemoryCreate, Depends(Body(MemoryCreate, nul=True))]
UpdateBody = Annotated[MemoryUpdate, Depends(Body(MemoryUpdate, nul=True))]
Expected = Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")]
Depth = Annotated[int, Query(ge=0, le=1)]


@dataclass(frozen=True)
class Page:
    """The parameters of both lists."""

    limit: int
    cursor: str | None
    view: View


async def _page(
    limit: int | None = None,
    page_cursor: Annotated[str | None, Query(alias="page")] = None,
    view: View = "basic",
) -> Page:
    size = check_limit(limit, DEFAULT_PAGE, MAX_PAGE)
    return Page(min(size, MAX_FULL_PAGE) if view == "full" else size, page_cursor or None, view)


async def _authored(
    session_id: str | None = None,
    api_key_id: str | None = None,
    service_account_id: str | None = None,
) -> Author | None:
    """Return whose versions are wanted.

    Raises:
        InvalidRequest: of more than one; a version has one author.
    """
    wanted = [
        author
        for author in (
            session_id and Author("session_actor", session_id),
            api_key_id and Author("api_actor", api_key_id),
            service_account_id and Author("service_account_actor", service_account_id),
        )
        if author
    ]
    if len(wanted) > 1:
        raise InvalidRequest("session_id, api_key_id, service_account_id: send at most one")
    return wanted[0] if wanted else None


PageDep = Annotated[Page, Depends(_page)]


async def _filters(
    author: Annotated[Author | None, Depends(_authored)],
    created: CreatedDep,
    memory_id: str | None = None,
    operation: Operation | None = None,
) -> dict[str, Any]:
    """Return the filters of versions as fields of :class:`memory_versions.Query`."""
    return {
        "author": author,
        "memory_id": memory_id,
        "operation": operation,
        "created_gte_us": created[0],
        "created_lte_us": created[1],
    }


@router.post("")
async def create(
    caller: User, svc: ServicesDep, memory_store_id: str, body: CreateBody, view: View = "basic"
) -> Response:
    """Create a memory; an existing one is never overwritten."""

    def write(tx: Tx) -> dict[str, Any]:
        writer = _writer(tx, svc, caller, memory_store_id)
        return _memory(tx, memories.create(tx, writer, body), view)

    return reply(await svc.db.jot(write))


@router.get("")
async def find(
    caller: User,
    svc: ServicesDep,
    memory_store_id: str,
    paging: PageDep,
    path_prefix: str | None = None,
    depth: Depth = 0,
) -> Response:
    """List memories in the order of their paths (R159, R160)."""
    prefix = "/" if path_prefix is None else _prefix(path_prefix)
    bound = {"list": "memories", "store": memory_store_id, "prefix": prefix, "depth": depth}
    after = None
    if paging.cursor is not None:
        (after,) = svc.cursors.open(bound, paging.cursor)
    query = memories.Query(paging.limit, prefix, shallow=depth == 1, after=after)

    def read(tx: Tx) -> tuple[list[dict[str, Any]], str | None]:
        memory_stores.reach(tx, caller, memory_store_id)
        found, more = memories.find(tx, memory_store_id, query)
        wanted = [] if paging.view == "basic" else [i for i in found if not isinstance(i, str)]
        held = memories.contents(tx, wanted)
        shown = [
            memories.present(item, None if isinstance(item, str) else held.get(item.id))
            for item in found
        ]
        return shown, memories.place(found[-1]) if more else None

    # Rolling up what lies deeper reads all of it.
    shown, place = await svc.db.page(read, None if query.shallow else paging.limit)
    return reply(page(shown, None if place is None else svc.cursors.seal(bound, (place,))))


@router.get("/{memory_id}")
async def retrieve(
    caller: User, svc: ServicesDep, memory_store_id: str, memory_id: str, view: View = "full"
) -> Response:
    """Return a memory."""

    def read(tx: Tx) -> dict[str, Any]:
        memory_stores.reach(tx, caller, memory_store_id)
        return _memory(tx, memories.get(tx, memory_store_id, memory_id), view)

    return reply(await svc.db.glance(read))


@router.post("/{memory_id}")
async def update(
    caller: User,
    svc: ServicesDep,
    memory_store_id: str,
    memory_id: str,
    body: UpdateBody,
    view: View = "basic",
) -> Response:
    """Change a memory's content or path."""

    def write(tx: Tx) -> dict[str, Any]:
        writer = _writer(tx, svc, caller, memory_store_id)
        return _memory(tx, memories.change(tx, writer, memory_id, body), view)

    return reply(await svc.db.jot(write))


@router.delete("/{memory_id}")
async def delete(
    caller: User,
    svc: ServicesDep,
    memory_store_id: str,
    memory_id: str,
    expected_content_sha256: Expected = None,
) -> Response:
    """Delete a memory; its versions stay."""

    def write(tx: Tx) -> None:
        writer = _writer(tx, svc, caller, memory_store_id)
        memories.remove(tx, writer, memory_id, expected_content_sha256)

    await svc.db.write(write)
    return reply({"id": memory_id, "type": "memory_deleted"})


@versions_router.get("")
async def find_versions(
    caller: User,
    svc: ServicesDep,
    memory_store_id: str,
    paging: PageDep,
    filters: Annotated[dict[str, Any], Depends(_filters)],
) -> Response:
    """List versions, newest first (R162)."""
    author: Author | None = filters["author"]
    named = None if author is None else [author.kind, author.id]
    bound = {"list": "memory_versions", "store": memory_store_id, **filters, "author": named}
    after = None
    if paging.cursor is not None:
        at_us, last_id = svc.cursors.open(bound, paging.cursor)
        after = (at_us, last_id)
    query = memory_versions.Query(paging.limit, after, **filters)

    def read(tx: Tx) -> tuple[list[dict[str, Any]], tuple[int, str] | None]:
        memory_stores.reach(tx, caller, memory_store_id)
        found, more = memory_versions.find(tx, memory_store_id, query)
        wanted = [] if paging.view == "basic" else [version.id for version in found]
        held = memory_versions.contents(tx, wanted)
        shown = [memory_versions.present(version, held.get(version.id)) for version in found]
        return shown, (found[-1].created_us, found[-1].id) if more else None

    shown, place = await svc.db.page(read)
    return reply(page(shown, None if place is None else svc.cursors.seal(bound, place)))


@versions_router.get("/{version_id}")
async def retrieve_version(
    caller: User, svc: ServicesDep, memory_store_id: str, version_id: str, view: View = "full"
) -> Response:
    """Return a version, redacted or not (R166)."""

    def read(tx: Tx) -> dict[str, Any]:
        memory_stores.reach(tx, caller, memory_store_id)
        found = memory_versions.get(tx, memory_store_id, version_id)
        return memory_versions.present(found, found.content if view == "full" else None)

    return reply(await svc.db.read(read))


@versions_router.post("/{version_id}/redact")
async def redact(
    caller: Keeper, svc: ServicesDep, memory_store_id: str, version_id: str
) -> Response:
    """Wipe what a version held."""

    def write(tx: Tx) -> dict[str, Any]:
        writer = _writer(tx, svc, caller, memory_store_id)
        return memory_versions.present(memory_versions.redact(tx, writer, version_id))

    return reply(await svc.db.jot(write))


def _writer(tx: Tx, svc: Services, caller: Principal, store_id: str) -> Writer:
    store = memory_stores.reach(tx, caller, store_id, write=True)
    return Writer(actor_of(svc, caller), author_of(caller), store)


def _memory(tx: Tx, found: memories.Memory, view: View) -> dict[str, Any]:
    content = memories.contents(tx, [found])[found.id] if view == "full" else None
    return memories.present(found, content)


def _prefix(text: str) -> str:
    try:
        return check_prefix(text)
    except ValueError as error:
        raise InvalidRequest(f"path_prefix: {error}") from error
