"""Positions in lists: rows behind the last one seen, found through an index however deep it is."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, tuple_


def beyond(
    columns: Sequence[ColumnElement[object]], place: Sequence[object], *, ascending: bool
) -> ColumnElement[bool]:
    """Return the condition of rows behind ``place`` in a list sorted by ``columns``.

    Written as a comparison of rows: spelled out with OR, databases walk all that lies before.
    """
    row = tuple_(*columns)
    return row > tuple(place) if ascending else row < tuple(place)
