"""Which workspaces a destination covers: all, those on its list, or all but those."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, delete, false, func, insert, or_, select, tuple_

from intramuros.control.catalog import workspaces
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import telemetry_destinations, telemetry_workspaces
from intramuros.control.store.tables import workspaces as workspaces_table
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339
from intramuros.protocol.resources.telemetry import CoverAll, CoverExclude, CoverInclude

Cover = CoverAll | CoverInclude | CoverExclude

MAX_LISTED: Final = 1000
# A longer list is not replaced at once.
MAX_REPLACED: Final = 750


def replace(tx: Tx, destination_id: str, wanted: Cover, now_us: int) -> bool:
    """Make the list what was sent; entries that stay keep their time.

    Returns:
        Whether the list has changed.

    Raises:
        InvalidRequest: an id is no workspace's, or an archived one would be added.
    """
    ids = [] if isinstance(wanted, CoverAll) else list(dict.fromkeys(wanted.workspace_ids or ()))
    mine = telemetry_workspaces.c.destination_id == destination_id
    listed = set(tx.execute(select(telemetry_workspaces.c.workspace_id).where(mine)).scalars())
    for workspace_id in ids:
        if workspace_id not in listed:
            _insert(tx, destination_id, _addable(tx, workspace_id), now_us)
    gone = listed - set(ids)
    if gone:
        tx.execute(
            delete(telemetry_workspaces).where(
                mine, telemetry_workspaces.c.workspace_id.in_(sorted(gone))
            )
        )
    return listed != set(ids)


def change(tx: Tx, row: Row[Any], wanted: Cover, now_us: int) -> bool:
    """Change what a destination covers; without ids and of the same type, the list stays.

    Returns:
        Whether anything has changed.

    Raises:
        InvalidRequest: the list is too long to be replaced, or an id cannot be listed.
    """
    same = wanted.type == row.coverage
    if same and (isinstance(wanted, CoverAll) or wanted.workspace_ids is None):
        return False
    if _count(tx, row.id) > MAX_REPLACED:
        raise InvalidRequest(
            f"workspaces: the list has more than {MAX_REPLACED} entries; remove some one by one"
        )
    changed = replace(tx, row.id, wanted, now_us)
    return changed or not same


def clear(tx: Tx, destination_id: str) -> None:
    """Empty the list."""
    mine = telemetry_workspaces.c.destination_id == destination_id
    tx.execute(delete(telemetry_workspaces).where(mine))


def add(tx: Tx, row: Row[Any], workspace_id: str, now_us: int) -> dict[str, Any]:
    """Put a workspace on the list and return its entry; if it is there, that one.

    Raises:
        NotFound: no such workspace.
        InvalidRequest: there is no list, it is full, or the workspace is archived.
    """
    _check_list(row)
    known = _entry(tx, row.id, workspace_id)
    if known is not None:
        return shown(known)
    workspaces.active_row(tx, workspace_id)
    if _count(tx, row.id) >= MAX_LISTED:
        raise InvalidRequest(f"a list holds at most {MAX_LISTED} workspaces")
    _insert(tx, row.id, workspace_id, now_us)
    made = _entry(tx, row.id, workspace_id)
    assert made is not None
    return shown(made)


def remove(tx: Tx, row: Row[Any], workspace_id: str) -> dict[str, Any]:
    """Take a workspace off the list.

    Raises:
        NotFound: it is not on it.
        InvalidRequest: there is no list.
    """
    _check_list(row)
    if _entry(tx, row.id, workspace_id) is None:
        raise NotFound(f"workspace {workspace_id[:80]!r} is not on the list")
    tx.execute(delete(telemetry_workspaces).where(_is(row.id, workspace_id)))
    return {
        "telemetry_destination_id": row.id,
        "type": "telemetry_destination_workspace_deleted",
        "workspace_id": workspace_id,
    }


def find(
    tx: Tx, destination_id: str, limit: int, after: tuple[int, str] | None
) -> tuple[list[Row[Any]], bool]:
    """Return a page of the list, newest entry first, and whether there is more."""
    table = telemetry_workspaces.c
    which = [table.destination_id == destination_id]
    if after is not None:
        which.append(tuple_(table.created_us, table.workspace_id) < after)
    order = (table.created_us.desc(), table.workspace_id.desc())
    query = select(telemetry_workspaces).where(*which).order_by(*order).limit(limit + 1)
    rows = list(tx.execute(query).all())
    return rows[:limit], len(rows) > limit


def shown(row: Row[Any]) -> dict[str, Any]:
    """Return an entry as the API shows it."""
    return {
        "telemetry_destination_id": row.destination_id,
        "type": "telemetry_destination_workspace",
        "workspace_id": row.workspace_id,
        "created_at": rfc3339(from_micros(row.created_us)),
    }


def covers(workspace_ids: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that a destination covers one of these workspaces."""
    return or_(false(), *(_covers(workspace_id) for workspace_id in workspace_ids))


def _covers(workspace_id: str) -> ColumnElement[bool]:
    listed = (
        select(telemetry_workspaces.c.workspace_id)
        .where(
            telemetry_workspaces.c.destination_id == telemetry_destinations.c.id,
            telemetry_workspaces.c.workspace_id == workspace_id,
        )
        .exists()
    )
    is_one = select(workspaces_table.c.id).where(workspaces_table.c.id == workspace_id).exists()
    how = telemetry_destinations.c.coverage
    wanted = or_(how == "all", and_(how == "include", listed), and_(how == "exclude", ~listed))
    return and_(is_one, wanted)


def _check_list(row: Row[Any]) -> None:
    if row.coverage == "all":
        raise InvalidRequest("this destination covers all workspaces and has no list")


def _addable(tx: Tx, workspace_id: str) -> str:
    try:
        workspaces.active_row(tx, workspace_id)
    except NotFound as error:
        raise InvalidRequest(f"workspaces.workspace_ids: {error.message}") from error
    return workspace_id


def _insert(tx: Tx, destination_id: str, workspace_id: str, now_us: int) -> None:
    row = {"destination_id": destination_id, "workspace_id": workspace_id, "created_us": now_us}
    tx.execute(insert(telemetry_workspaces).values(**row))


def _entry(tx: Tx, destination_id: str, workspace_id: str) -> Row[Any] | None:
    return tx.execute(select(telemetry_workspaces).where(_is(destination_id, workspace_id))).first()


def _is(destination_id: str, workspace_id: str) -> ColumnElement[bool]:
    table = telemetry_workspaces.c
    return and_(table.destination_id == destination_id, table.workspace_id == workspace_id)


def _count(tx: Tx, destination_id: str) -> int:
    mine = telemetry_workspaces.c.destination_id == destination_id
    count = select(func.count()).select_from(telemetry_workspaces).where(mine)
    return int(tx.scalar(count) or 0)
