"""Dreams and what they know of memories, as rows."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, func, insert, select, update

from intramuros.control.dreams.plan import Dream, Progress
from intramuros.control.session.state import State, load
from intramuros.control.store.db import Tx
from intramuros.control.store.dream_tables import dream_memories, dreams
from intramuros.control.store.keyset import beyond
from intramuros.control.store.tables import sessions

DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 100
NO_USAGE: Final = {
    "input_tokens": 0,
    "output_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
}


@dataclass(frozen=True)
class Query:
    """Which dreams to list, newest first; bounds in microseconds, exclusive (R246)."""

    limit: int
    after: tuple[int, str] | None = None
    statuses: Collection[str] = ()
    include_archived: bool = False
    created_gt_us: int | None = None
    created_lt_us: int | None = None


@dataclass(frozen=True)
class Known:
    """What a dream knows of the memory at a path of its output store.

    Args:
        found: the version in the input store that the dream found; None for one of its own.
        seen: the version in the output store that the model saw whole, in the part ``part``.
        reason: why the model deleted it.
    """

    path: str
    found: str | None
    seen: str | None
    part: int
    reason: str | None = None


def add(tx: Tx, dream: Dream) -> None:
    """Store a new dream."""
    tx.execute(
        insert(dreams).values(
            **{name: getattr(dream, name) for name in _PLAIN},
            inputs=[dict(item) for item in dream.inputs],
            session_ids=list(dream.session_ids),
            progress=dream.progress.dump(),
        )
    )


def change(tx: Tx, dream: Dream, **values: Any) -> None:  # noqa: ANN401  columns of many types
    """Change columns of a dream; ``progress`` is given as it is."""
    if "progress" in values:
        values["progress"] = values["progress"].dump()
    tx.execute(update(dreams).where(dreams.c.id == dream.id).values(**values))


def get(tx: Tx, workspace_id: str, dream_id: str) -> Dream | None:
    """Return a dream of a workspace, or None."""
    found = (dreams.c.id == dream_id, dreams.c.workspace_id == workspace_id)
    return _one(tx, *found)


def of_session(tx: Tx, session_id: str) -> Dream | None:
    """Return the dream that a session runs, or None."""
    return _one(tx, dreams.c.session_id == session_id)


def find(tx: Tx, workspace_id: str, query: Query) -> tuple[list[Dream], bool]:
    """Return a page, newest first, and whether there is more."""
    at, id = dreams.c.created_us, dreams.c.id
    wanted: list[ColumnElement[bool]] = [dreams.c.workspace_id == workspace_id]
    if not query.include_archived:
        wanted.append(dreams.c.archived_us.is_(None))
    if query.statuses:
        wanted.append(dreams.c.status.in_(sorted(query.statuses)))
    if query.created_gt_us is not None:
        wanted.append(at > query.created_gt_us)
    if query.created_lt_us is not None:
        wanted.append(at < query.created_lt_us)
    if query.after is not None:
        wanted.append(beyond((at, id), query.after, ascending=False))
    found = tx.execute(
        select(dreams).where(*wanted).order_by(at.desc(), id.desc()).limit(query.limit + 1)
    ).all()
    return [_dream(row) for row in found[: query.limit]], len(found) > query.limit


def busy(tx: Tx, workspace_id: str) -> int:
    """Return how many dreams of a workspace have not stopped."""
    here = (dreams.c.workspace_id == workspace_id, dreams.c.stopped_us.is_(None))
    return int(tx.scalar(select(func.count()).select_from(dreams).where(*here)) or 0)


def updating(tx: Tx, store_id: str) -> str | None:
    """Return a dream that writes into the store that it reads and has not stopped, or None."""
    found: str | None = tx.scalar(
        select(dreams.c.id)
        .where(dreams.c.store_id == store_id, dreams.c.stopped_us.is_(None), dreams.c.updates)
        .limit(1)
    )
    return found


def existing(tx: Tx, session_ids: Collection[str]) -> set[str]:
    """Return those of the sessions that exist."""
    found = tx.execute(select(sessions.c.id).where(sessions.c.id.in_(list(session_ids))))
    return set(found.scalars())


def states(tx: Tx, session_ids: Collection[str]) -> dict[str, State]:
    """Return the states of those sessions that exist."""
    found = tx.execute(
        select(sessions.c.id, sessions.c.state).where(sessions.c.id.in_(list(session_ids)))
    )
    return {row.id: load(row.state) for row in found}


def know(tx: Tx, dream: Dream, known: Known) -> None:
    """Keep what the dream knows of a memory."""
    values = {
        "found_version_id": known.found,
        "seen_version_id": known.seen,
        "seen_part": known.part,
        "reason": known.reason,
    }
    here = (dream_memories.c.dream_id == dream.id, dream_memories.c.path == known.path)
    if not tx.execute(update(dream_memories).where(*here).values(**values)).rowcount:
        tx.execute(insert(dream_memories).values(dream_id=dream.id, path=known.path, **values))


def known(tx: Tx, dream: Dream, path: str) -> Known | None:
    """Return what the dream knows of the memory at a path, or None."""
    row = tx.execute(
        select(dream_memories).where(
            dream_memories.c.dream_id == dream.id, dream_memories.c.path == path
        )
    ).first()
    return None if row is None else _known(row)


def all_known(tx: Tx, dream: Dream) -> list[Known]:
    """Return everything that the dream knows, by path."""
    found = tx.execute(
        select(dream_memories)
        .where(dream_memories.c.dream_id == dream.id)
        .order_by(dream_memories.c.path)
    )
    return [_known(row) for row in found]


_PLAIN: Final = (
    "id",
    "workspace_id",
    "status",
    "store_id",
    "model",
    "instructions",
    "updates",
    "output_id",
    "session_id",
    "error",
    "usage",
    "created_by",
    "created_us",
    "started_us",
    "ended_us",
    "stopped_us",
    "archived_us",
)


def _one(tx: Tx, *wanted: ColumnElement[bool]) -> Dream | None:
    row = tx.execute(select(dreams).where(*wanted)).first()
    return None if row is None else _dream(row)


def _dream(row: Row[Any]) -> Dream:
    return Dream(
        **{name: getattr(row, name) for name in _PLAIN},
        inputs=tuple(row.inputs),
        session_ids=tuple(row.session_ids),
        progress=Progress(**row.progress),
    )


def _known(row: Row[Any]) -> Known:
    return Known(row.path, row.found_version_id, row.seen_version_id, row.seen_part, row.reason)
