"""Lists that are walked by the ids of their rows, in both directions (contract-2 R027)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, select

from intramuros.control.store.db import Tx
from intramuros.control.store.keyset import beyond
from intramuros.kernel.errors import InvalidRequest


@dataclass(frozen=True)
class Span:
    """Which rows to show: the newest, or those right after or right before a row."""

    limit: int
    after_id: str | None = None
    before_id: str | None = None


def fetch(
    tx: Tx, table: Table, which: Sequence[ColumnElement[bool]], span: Span
) -> tuple[list[Row[Any]], bool]:
    """Return a page of a table's rows, newest first, and whether there is more that way.

    Args:
        table: with columns ``id`` and ``created_us``.
        which: the rows that the list has; a position need not be one of them, since it may have
            left the list (an archived workspace, say) while somebody walked it.

    Raises:
        InvalidRequest: both positions, or one that is no row's (contract-2 R028).
    """
    if span.after_id is not None and span.before_id is not None:
        raise InvalidRequest("after_id: not together with before_id")
    place = (table.c.created_us, table.c.id)
    order = [column.desc() for column in place]
    conditions = list(which)
    backwards = span.before_id is not None
    if span.after_id is not None:
        at_us, row_id = _position(tx, table, "after_id", span.after_id)
        conditions.append(beyond(place, (at_us, row_id), ascending=False))
    if span.before_id is not None:
        at_us, row_id = _position(tx, table, "before_id", span.before_id)
        conditions.append(beyond(place, (at_us, row_id), ascending=True))
        order = [column.asc() for column in place]
    query = select(table).where(*conditions).order_by(*order).limit(span.limit + 1)
    rows = list(tx.execute(query).all())
    more, rows = len(rows) > span.limit, rows[: span.limit]
    return (rows[::-1] if backwards else rows), more


def _position(tx: Tx, table: Table, name: str, row_id: str) -> tuple[int, str]:
    row = tx.execute(select(table.c.created_us, table.c.id).where(table.c.id == row_id)).first()
    if row is None:
        raise InvalidRequest(f"{name}: no such object; start again without it")
    return row.created_us, row.id
