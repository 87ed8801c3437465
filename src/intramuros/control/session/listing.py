"""Which sessions a list shows, as one statement that an index answers."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Row, Select, bindparam, select, union_all

from intramuros.control.session.phase import Status
from intramuros.control.store.db import Tx
from intramuros.control.store.keyset import beyond
from intramuros.control.store.prepared import sent, shaped
from intramuros.control.store.tables import memory_attachments, sessions

# The filters whose values a statement takes when it runs.
_VALUES: Final = (
    "agent_id",
    "agent_version",
    "deployment_id",
    "memory_store_id",
    "from_us",
    "until_us",
)
# What an answer shows of a session, of the rest of its row only what it is made of.
SHOWN: Final = (
    *(
        sessions.c[name]
        for name in (
            "id",
            "environment_id",
            "status",
            "title",
            "resources",
            "deployment_id",
            "created_us",
            "updated_us",
            "archived_us",
        )
    ),
    *(sent(sessions.c[name]) for name in ("agent", "metadata", "vault_ids", "outcomes", "state")),
)
DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 100


@dataclass(frozen=True)
class Query:
    """Which sessions to list (contract 4.18, 4.19); times in microseconds.

    Args:
        from_us: created at this time or later.
        until_us: created before this time.
        after: creation time and id of the session to start behind.
        backwards: read the page before ``after`` instead of the one behind it.
    """

    order: Literal["asc", "desc"] = "desc"
    limit: int = DEFAULT_PAGE
    agent_id: str | None = None
    agent_version: int | None = None
    deployment_id: str | None = None
    memory_store_id: str | None = None
    statuses: Collection[str] = ()
    include_archived: bool = False
    from_us: int | None = None
    until_us: int | None = None
    after: tuple[int, str] | None = None
    backwards: bool = False


def find(tx: Tx, workspace_id: str, query: Query, *, ascending: bool) -> list[Row[Any]]:
    """Return a page and one row more, in the order of reading."""
    given = {name: value for name in _VALUES if (value := getattr(query, name)) is not None}
    placed = query.after is not None
    shape = (frozenset(given), frozenset(query.statuses), query.include_archived, placed)
    if query.after is not None:
        given["after_us"], given["after_id"] = query.after
    page = {"here": workspace_id, "count": query.limit + 1}
    return tx.run(_page(*shape, ascending), {**given, **page}).all()


@shaped
def _page(
    given: Collection[str], statuses: Collection[str], archived: bool, placed: bool, ascending: bool
) -> Select[Any]:
    """Return the statement for filters of these names; values other than statuses come later."""
    values: dict[str, Any] = {name: bindparam(name) for name in given}
    if placed:
        values["after"] = (bindparam("after_us"), bindparam("after_id"))
    query = Query(statuses=statuses, include_archived=archived, **values)
    return _statement(query, ascending=ascending)


def _statement(query: Query, *, ascending: bool) -> Select[Any]:
    if len(query.statuses) < 2:
        wanted = _one(query, next(iter(query.statuses), None), ascending=ascending)
        return _sorted(wanted, _keys(query), ascending=ascending)
    # Each status has its part of an index in the order asked for: take a page of each, then merge.
    parts = [
        _sorted(
            _one(query, status, ascending=ascending).with_only_columns(sessions.c.id),
            _keys(query),
            ascending=ascending,
        ).subquery()
        for status in sorted(query.statuses)
    ]
    ids = union_all(*(select(part.c.id) for part in parts))
    keys = (sessions.c.created_us, sessions.c.id)
    found = select(*SHOWN).where(sessions.c.id.in_(ids))
    return _sorted(found, keys, ascending=ascending)


def _one(query: Query, status: str | None, *, ascending: bool) -> Select[Any]:
    """Return what sessions with at most one status to choose from must fulfil."""
    # An agent, or a deployment, has one workspace: an expression keeps the planner from looking all
    # of it through.
    narrow = query.agent_id is not None or query.deployment_id is not None
    of = sessions.c.workspace_id + "" if narrow else sessions.c.workspace_id
    wanted = [of == bindparam("here"), *_filters(query, ascending=ascending)]
    if status is not None:
        wanted.append(sessions.c.status == status)
    # An archived session is terminated: there is none of another status.
    if not query.include_archived and status in (None, Status.TERMINATED):
        wanted.append(sessions.c.archived_us.is_(None))
    found = select(*SHOWN).where(*wanted)
    if query.memory_store_id is not None:
        found = found.join(memory_attachments, memory_attachments.c.session_id == sessions.c.id)
        found = found.where(memory_attachments.c.store_id == query.memory_store_id)
    if query.after is not None:
        found = found.where(beyond(_keys(query), query.after, ascending=ascending))
    return found


def _filters(query: Query, *, ascending: bool) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if query.agent_id is not None:
        wanted.append(sessions.c.agent_id == query.agent_id)
        if query.agent_version is not None:
            wanted.append(sessions.c.agent_version == query.agent_version)
    if query.deployment_id is not None:
        wanted.append(sessions.c.deployment_id == query.deployment_id)
    # A cursor lies within the bounds, so it is the closer one on its side.
    created_us = _keys(query)[0]
    if query.from_us is not None and not (query.after and ascending):
        wanted.append(created_us >= query.from_us)
    if query.until_us is not None and not (query.after and not ascending):
        wanted.append(created_us < query.until_us)
    return wanted


def _keys(query: Query) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return the columns that sort; a memory store's sessions have an index of their own."""
    if query.memory_store_id is not None:
        return (memory_attachments.c.created_us, memory_attachments.c.session_id)
    return (sessions.c.created_us, sessions.c.id)


def _sorted(
    wanted: Select[Any],
    keys: tuple[ColumnElement[Any], ColumnElement[Any]],
    *,
    ascending: bool,
) -> Select[Any]:
    sorts = (key.asc() if ascending else key.desc() for key in keys)
    return wanted.order_by(*sorts).limit(bindparam("count"))
