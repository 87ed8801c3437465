"""Memories: texts at paths of a store. Each change adds one version (``memory_versions.py``)."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, bindparam, delete, func, insert, select, update

from intramuros.control.catalog import memory_versions, service
from intramuros.control.catalog.kinds import MEMORY_STORE
from intramuros.control.catalog.memory_versions import Change, Writer
from intramuros.control.store.db import Tx
from intramuros.control.store.prepared import Prepared, shaped
from intramuros.control.store.tables import memories
from intramuros.kernel.errors import ContentChanged, InvalidRequest, NotFound, PathTaken
from intramuros.kernel.timing import micros_rfc3339, to_micros
from intramuros.protocol.resources.memory import MAX_MEMORIES, MemoryCreate, MemoryUpdate

Memory = Row[Any]

# What a path that ends in a slash covers lies before the same path with this instead of the slash.
_AFTER_SLASH: Final = chr(ord("/") + 1)


_OF_STORE: Final = memories.c.store_id == bindparam("of_store")
_ONE: Final = Prepared(select(memories).where(memories.c.id == bindparam("of_id"), _OF_STORE))
_COUNT: Final = Prepared(select(func.count()).select_from(memories).where(_OF_STORE))
_TAKEN: Final = Prepared(
    select(memories.c.id).where(_OF_STORE, memories.c.path == bindparam("at_path"))
)
_INSERT: Final = Prepared(insert(memories))


@shaped
def _page(given: Collection[str]) -> Select[Any]:
    """Return a page's statement, with those conditions that have a value."""
    path = memories.c.path
    conditions: dict[str, ColumnElement[bool]] = {
        "of_store": _OF_STORE,
        "above": path > bindparam("above"),
        "below": path < bindparam("below"),
        "from_path": path >= bindparam("from_path"),
        "behind": path > bindparam("behind"),
    }
    chosen = (condition for name, condition in conditions.items() if name in given)
    found = select(memories).where(*chosen).order_by(path)
    return found.limit(bindparam("count")) if "count" in given else found


@dataclass(frozen=True)
class Query:
    """Which memories to list, in the order of their paths.

    Args:
        prefix: ends in a slash.
        shallow: roll up what lies deeper than the prefix's own children.
        after: the path of the last item already seen.
    """

    limit: int
    prefix: str = "/"
    shallow: bool = False
    after: str | None = None


def create(tx: Tx, writer: Writer, request: MemoryCreate) -> Memory:
    """Store a new memory; an existing one is never overwritten.

    Raises:
        InvalidRequest: the store is archived or full.
        PathTaken: a memory is at that path.
    """
    service.check_active(MEMORY_STORE, writer.store)
    _check_free(tx, writer.store.id, request.path)
    if tx.run(_COUNT, {"of_store": writer.store.id}).scalar() >= MAX_MEMORIES:
        raise InvalidRequest(f"memory store {writer.store.id!r} is full: {MAX_MEMORIES} memories")
    content = request.content.encode()
    memory_id, now_us = writer.actor.ids.new("mem"), to_micros(writer.actor.clock.now())
    made = Change("created", memory_id, request.path, content, now_us)
    head = _head(made, memory_versions.append(tx, writer, made))
    own = {"id": memory_id, "store_id": writer.store.id, "created_us": now_us}
    tx.later(_INSERT, {**own, **head})
    return get(tx, writer.store.id, memory_id)


def change(tx: Tx, writer: Writer, memory_id: str, request: MemoryUpdate) -> Memory:
    """Change the content or the path of a memory; what is not sent stays.

    What is so already is no change, whatever the precondition says (R154, AMB 47).

    Raises:
        NotFound: no such memory in this store.
        InvalidRequest: the store is archived.
        ContentChanged: it does not hold what the precondition names.
        PathTaken: another memory is at the new path.
    """
    current = get(tx, writer.store.id, memory_id)
    service.check_active(MEMORY_STORE, writer.store)
    path = current.path if request.path is None else request.path
    stored = contents(tx, [current])[current.id]
    content = stored if request.content is None else request.content.encode()
    if (path, content) == (current.path, stored):
        return current
    if request.precondition is not None:
        _check_digest(current, request.precondition.content_sha256)
    if path != current.path:
        _check_free(tx, writer.store.id, path)
    step = Change("modified", memory_id, path, content, _later(writer, current))
    version_id = memory_versions.append(tx, writer, step)
    tx.execute(update(memories).where(memories.c.id == memory_id).values(**_head(step, version_id)))
    return get(tx, writer.store.id, memory_id)


def remove(tx: Tx, writer: Writer, memory_id: str, expected_sha256: str | None) -> None:
    """Delete a memory, of an archived store too; its versions stay.

    Raises:
        NotFound: no such memory in this store.
        ContentChanged: it does not hold what the caller expects.
    """
    current = get(tx, writer.store.id, memory_id)
    if expected_sha256 is not None:
        _check_digest(current, expected_sha256)
    last = Change("deleted", memory_id, current.path, None, _later(writer, current))
    memory_versions.append(tx, writer, last)
    tx.execute(delete(memories).where(memories.c.id == memory_id))


def get(tx: Tx, store_id: str, memory_id: str) -> Memory:
    """Return a memory, without its content.

    Raises:
        NotFound: no such memory in this store.
    """
    row = tx.run(_ONE, {"of_id": memory_id, "of_store": store_id}).first()
    if row is None:
        raise NotFound(f"no memory {memory_id[:80]!r} in memory store {store_id!r}")
    return row


def at(tx: Tx, store_id: str, path: str) -> Memory | None:
    """Return the memory at a path, without its content, or None."""
    return tx.execute(
        select(memories).where(memories.c.store_id == store_id, memories.c.path == path)
    ).first()


def size(tx: Tx, store_id: str) -> int:
    """Return how many bytes all memories of a store hold together."""
    total = select(func.coalesce(func.sum(memories.c.size_bytes), 0))
    return int(tx.scalar(total.where(memories.c.store_id == store_id)) or 0)


def contents(tx: Tx, found: Iterable[Memory]) -> dict[str, bytes]:
    """Return the content of each memory by its id."""
    by_version = {row.version_id: row.id for row in found}
    bodies = memory_versions.contents(tx, by_version)
    return {by_version[version_id]: body for version_id, body in bodies.items()}


def find(tx: Tx, store_id: str, query: Query) -> tuple[list[Memory | str], bool]:
    """Return a page of memories and, as text, of rolled-up prefixes, and whether there is more."""
    wanted: dict[str, object] = {"of_store": store_id}
    if query.prefix != "/":
        wanted |= {"above": query.prefix, "below": _end(query.prefix)}
    if query.after is not None and query.after.endswith("/"):
        wanted["from_path"] = _end(query.after)
    elif query.after is not None:
        wanted["behind"] = query.after
    if not query.shallow:
        wanted["count"] = query.limit + 1
    found = tx.run(_page(frozenset(wanted)), wanted).all()
    rows: Sequence[Memory | str] = found
    if query.shallow:
        rows = list(_roll_up(found, query.prefix))
    return list(rows[: query.limit]), len(rows) > query.limit


def place(item: Memory | str) -> str:
    """Return where an item of a list stands in it."""
    return item if isinstance(item, str) else str(item.path)


def present(item: Memory | str, content: bytes | None = None) -> dict[str, Any]:
    """Return a memory or a prefix as answers show it; the basic view has no content."""
    if isinstance(item, str):
        return {"type": "memory_prefix", "path": item}
    return {
        "id": item.id,
        "type": "memory",
        "memory_store_id": item.store_id,
        "memory_version_id": item.version_id,
        "path": item.path,
        "content": None if content is None else content.decode(),
        "content_sha256": item.sha256,
        "content_size_bytes": item.size_bytes,
        "created_at": micros_rfc3339(item.created_us),
        "updated_at": micros_rfc3339(item.updated_us),
    }


def _roll_up(rows: Sequence[Memory], prefix: str) -> Iterator[Memory | str]:
    """Yield the direct children of a prefix; rows come in the order of their paths."""
    last = None
    for row in rows:
        head, slash, _ = row.path[len(prefix) :].partition("/")
        if not slash:
            yield row
        elif head != last:
            last = head
            yield f"{prefix}{head}/"


def _end(prefix: str) -> str:
    return prefix[:-1] + _AFTER_SLASH


def _head(change: Change, version_id: str) -> dict[str, Any]:
    """Return the columns that follow the newest version."""
    content = change.content or b""
    return {
        "path": change.path,
        "version_id": version_id,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "updated_us": change.at_us,
    }


def _later(writer: Writer, current: Memory) -> int:
    """Return the time of a change: after the last one, even when the clock steps back."""
    return max(to_micros(writer.actor.clock.now()), int(current.updated_us) + 1)


def _check_digest(current: Memory, expected: str) -> None:
    if current.sha256 != expected:
        raise ContentChanged(
            f"memory {current.id!r} holds content with the SHA-256 {current.sha256}, "
            f"not {expected[:64]!r}"
        )


def _check_free(tx: Tx, store_id: str, path: str) -> None:
    taken = tx.run(_TAKEN, {"of_store": store_id, "at_path": path}).scalar()
    if taken is not None:
        raise PathTaken(
            f"memory {taken!r} is at the path already",
            details={"conflicting_memory_id": taken, "conflicting_path": path},
        )
