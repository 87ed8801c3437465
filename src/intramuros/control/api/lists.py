"""Lists of configured resources: one way to read, filter and page for every kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query
from starlette.responses import Response

from intramuros.control.api.pages import check_limit, page
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import DEFAULT_PAGE, Kind
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.principal import Principal
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import parse_rfc3339, to_micros

Present = Callable[[Resource], Mapping[str, Any]]


@dataclass(frozen=True)
class Paging:
    """The parameters of every list."""

    limit: int | None = None
    page: str | None = None
    include_archived: bool = False


async def _paging(
    limit: int | None = None, page: str | None = None, *, include_archived: bool = False
) -> Paging:
    return Paging(limit, page or None, include_archived)


PagingDep = Annotated[Paging, Depends(_paging)]


async def _created(
    at_or_after: Annotated[str | None, Query(alias="created_at[gte]")] = None,
    at_or_before: Annotated[str | None, Query(alias="created_at[lte]")] = None,
) -> tuple[int | None, int | None]:
    return (
        time_bound("created_at[gte]", at_or_after),
        time_bound("created_at[lte]", at_or_before),
    )


CreatedDep = Annotated[tuple[int | None, int | None], Depends(_created)]


def time_bound(name: str, text: str | None) -> int | None:
    """Return a time filter in microseconds since the epoch (contract 1.29).

    Raises:
        InvalidRequest: no RFC 3339 timestamp.
    """
    if text is None:
        return None
    try:
        at = parse_rfc3339(text)
    except ValueError as error:
        raise InvalidRequest(
            f"{name}: expected a timestamp such as 2026-01-31T12:00:00Z"
        ) from error
    return to_micros(at)


async def list_resources(
    svc: Services,
    caller: Principal,
    kind: Kind,
    present: Present,
    paging: Paging,
    narrow: Mapping[str, Any] | None = None,
) -> Response:
    """Answer with one page of a kind, newest first.

    Args:
        narrow: further fields of :class:`service.Query`.
    """
    limit = check_limit(paging.limit, DEFAULT_PAGE, kind.max_page)
    narrow = narrow or {}
    bound = {
        "list": kind.name,
        "workspace": caller.workspace_id,
        "archived": paging.include_archived,
        **narrow,
    }
    after = None
    if paging.page is not None:
        at_us, last_id = svc.cursors.open(bound, paging.page)
        after = (at_us, last_id)
    query = service.Query(limit, after, paging.include_archived, **narrow)
    found, more = await svc.db.page(
        lambda tx: service.find(tx, caller.workspace_id, kind, query), limit
    )
    next_page = svc.cursors.seal(bound, (found[-1].created_us, found[-1].id)) if more else None
    return reply(page([present(resource) for resource in found], next_page))
