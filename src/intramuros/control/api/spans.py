"""Lists of the organization that are walked by ids: ``after_id``, ``before_id``, ``has_more``."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import Depends

from intramuros.control.api.pages import check_limit
from intramuros.control.catalog.kinds import DEFAULT_PAGE
from intramuros.control.store.spans import Span

MAX_PAGE: Final = 1000


async def _span(
    limit: int | None = None, after_id: str | None = None, before_id: str | None = None
) -> Span:
    """Read the three parameters; an empty position is none.

    Raises:
        InvalidRequest: the limit is out of range.
    """
    return Span(check_limit(limit, DEFAULT_PAGE, MAX_PAGE), after_id or None, before_id or None)


SpanDep = Annotated[Span, Depends(_span)]


def span(data: Sequence[Mapping[str, Any]], *, more: bool, key: str = "id") -> dict[str, object]:
    """Return the list envelope (contract-2 R027); ``key`` is the member that positions name."""
    return {
        "data": data,
        "has_more": more,
        "first_id": data[0][key] if data else None,
        "last_id": data[-1][key] if data else None,
    }
