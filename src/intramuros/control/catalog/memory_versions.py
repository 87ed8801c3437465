"""The history of memories: one row a change, who made it, and redaction."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Row, bindparam, insert, select, update

from intramuros.control.catalog.service import Resource
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.store.db import Tx
from intramuros.control.store.keyset import beyond
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.tables import memories, memory_versions
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros
from intramuros.protocol.resources.memory import Operation

Version = Row[Any]
AuthorKind = Literal["session_actor", "api_actor", "user_actor", "service_account_actor"]

# The member that holds each kind of author's id (R164).
_ID_MEMBERS: Final[dict[AuthorKind, str]] = {
    "session_actor": "session_id",
    "api_actor": "api_key_id",
    "user_actor": "user_id",
    "service_account_actor": "service_account_id",
}
# What a change is called in the audit chain.
_ACTS: Final[dict[Operation, str]] = {
    "created": "memory.create",
    "modified": "memory.update",
    "deleted": "memory.delete",
}


_INSERT: Final = Prepared(insert(memory_versions))
_CONTENT: Final = Prepared(
    select(memory_versions.c.id, memory_versions.c.content).where(
        memory_versions.c.id == bindparam("of_id")
    )
)


@dataclass(frozen=True)
class Author:
    """Who is named in a version."""

    kind: AuthorKind
    id: str


@dataclass(frozen=True)
class Writer:
    """Who changes the memories of a store."""

    actor: Actor
    author: Author
    store: Resource


@dataclass(frozen=True)
class Change:
    """One change: the memory's path and content after it; a deletion has no content."""

    operation: Operation
    memory_id: str
    path: str
    content: bytes | None
    at_us: int


@dataclass(frozen=True)
class Query:
    """Which versions of a store to list; bounds in microseconds, inclusive."""

    limit: int
    after: tuple[int, str] | None = None
    memory_id: str | None = None
    operation: Operation | None = None
    author: Author | None = None
    created_gte_us: int | None = None
    created_lte_us: int | None = None


def author_of(caller: Principal) -> Author:
    """Return whom a change names: the session for its token, not who made the session."""
    if caller.kind is CredentialKind.SESSIONS_TOKEN and caller.session_id is not None:
        return Author("session_actor", caller.session_id)
    return Author("api_actor", caller.credential_id)


def append(tx: Tx, writer: Writer, change: Change) -> str:
    """Record a change and return its version's id."""
    content = change.content
    version_id = writer.actor.ids.new("memver")
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    size = None if content is None else len(content)
    _audit(
        tx,
        writer,
        _ACTS[change.operation],
        {"id": change.memory_id, "version_id": version_id, "sha256": sha256, "bytes": size},
    )
    row = {
        "id": version_id,
        "store_id": writer.store.id,
        "memory_id": change.memory_id,
        "operation": change.operation,
        "path": change.path,
        "content": content,
        "sha256": sha256,
        "size_bytes": size,
        "author_kind": writer.author.kind,
        "author_id": writer.author.id,
        "created_us": change.at_us,
    }
    tx.later(_INSERT, row)
    return version_id


def get(tx: Tx, store_id: str, version_id: str) -> Version:
    """Return a version, redacted or not.

    Raises:
        NotFound: no such version in this store.
    """
    row = tx.execute(
        select(memory_versions).where(
            memory_versions.c.id == version_id, memory_versions.c.store_id == store_id
        )
    ).first()
    if row is None:
        raise NotFound(f"no memory version {version_id[:80]!r} in memory store {store_id!r}")
    return row


def contents(tx: Tx, version_ids: Collection[str]) -> dict[str, bytes]:
    """Return the content of each version that has one, by id."""
    if not version_ids:
        return {}
    if len(version_ids) == 1:
        rows = tx.run(_CONTENT, {"of_id": next(iter(version_ids))}).all()
    else:
        wanted = select(memory_versions.c.id, memory_versions.c.content)
        rows = list(tx.execute(wanted.where(memory_versions.c.id.in_(version_ids))))
    return {row.id: row.content for row in rows if row.content is not None}


def find(tx: Tx, store_id: str, query: Query) -> tuple[list[Version], bool]:
    """Return a page of versions without content, newest first, and whether there is more."""
    table = memory_versions.c
    conditions: list[ColumnElement[bool]] = [table.store_id == store_id]
    if query.memory_id is not None:
        conditions.append(table.memory_id == query.memory_id)
    if query.operation is not None:
        conditions.append(table.operation == query.operation)
    if query.author is not None:
        conditions.append(table.author_kind == query.author.kind)
        conditions.append(table.author_id == query.author.id)
    if query.created_gte_us is not None:
        conditions.append(table.created_us >= query.created_gte_us)
    place = (table.created_us, table.id)
    if query.after is not None:
        # It lies within the bounds, so it is the closer one on its side.
        conditions.append(beyond(place, query.after, ascending=False))
    elif query.created_lte_us is not None:
        conditions.append(table.created_us <= query.created_lte_us)
    rows = tx.execute(
        select(*(column for column in table if column.key != "content"))
        .where(*conditions)
        .order_by(*(column.desc() for column in place))
        .limit(query.limit + 1)
    ).all()
    return list(rows[: query.limit]), len(rows) > query.limit


def redact(tx: Tx, writer: Writer, version_id: str) -> Version:
    """Wipe what a version held and keep that it was; a second time changes nothing (Q18).

    Raises:
        NotFound: no such version in this store.
        InvalidRequest: it is what a living memory holds now.
    """
    current = get(tx, writer.store.id, version_id)
    if current.redacted_us is not None:
        return current
    if tx.scalar(select(memories.c.id).where(memories.c.version_id == version_id)) is not None:
        raise InvalidRequest(
            f"memory version {version_id!r} is what memory {current.memory_id!r} holds now: "
            "update or delete the memory first"
        )
    _audit(tx, writer, "memory_version.redact", {"id": version_id, "memory_id": current.memory_id})
    tx.execute(
        update(memory_versions)
        .where(memory_versions.c.id == version_id)
        .values(
            path=None,
            content=None,
            sha256=None,
            size_bytes=None,
            redactor_kind=writer.author.kind,
            redactor_id=writer.author.id,
            redacted_us=to_micros(writer.actor.clock.now()),
        )
    )
    return get(tx, writer.store.id, version_id)


def present(version: Version, content: bytes | None = None) -> dict[str, Any]:
    """Return a version as answers show it; the basic view has no content."""
    redacted_us = version.redacted_us
    return {
        "id": version.id,
        "type": "memory_version",
        "memory_store_id": version.store_id,
        "memory_id": version.memory_id,
        "operation": version.operation,
        "path": version.path,
        "content": None if content is None else content.decode(),
        "content_sha256": version.sha256,
        "content_size_bytes": version.size_bytes,
        "created_by": _author(version.author_kind, version.author_id),
        "created_at": rfc3339(from_micros(version.created_us)),
        "redacted_by": None
        if redacted_us is None
        else _author(version.redactor_kind, version.redactor_id),
        "redacted_at": None if redacted_us is None else rfc3339(from_micros(redacted_us)),
    }


def _author(kind: AuthorKind, id: str) -> dict[str, str]:
    return {"type": kind, _ID_MEMBERS[kind]: id}


def _audit(tx: Tx, writer: Writer, kind: str, fields: dict[str, object]) -> None:
    session_id = writer.author.id if writer.author.kind == "session_actor" else None
    audit.record(
        tx,
        writer.actor.clock,
        kind,
        workspace_id=writer.actor.workspace_id,
        session_id=session_id,
        fields={"store_id": writer.store.id, "by": writer.actor.by, **fields},
    )
