"""Positions in lists: rows behind the last one seen, found through an index however deep it is."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, tuple_


def beyond(
    columns: Sequence[ColumnElement[object]], place: Sequence[object], *, ascending: bool
) -> ColumnElement[bool]:
    """Return the condition of rows behind ``place`` in a list sorted by ``columns``.

    Written as a comparison of rows: spelled out with OR, databases walk all that lies before.
    """
    row = tuple_(*columns)
    named = any(isinstance(part, ColumnElement) for part in place)
    other: Any = tuple_(*cast("Sequence[Any]", place)) if named else tuple(place)
    behind: ColumnElement[bool] = row > other if ascending else row < other
    return behind
