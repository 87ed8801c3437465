"""Rows, versions and lists of configured resources, the same for every kind.

A kind is declared once (``kinds.py``); what is special about it (what may be configured, how it is
shown) stays with the kind. Every change is recorded in the audit chain in the same transaction.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, bindparam, delete, insert, select, update

from intramuros.control.catalog.kinds import Kind
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.keyset import beyond
from intramuros.control.store.prepared import Prepared, shaped
from intramuros.control.store.tables import resource_versions, resources
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.kernel.timing import to_micros

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Resource:
    """A configured resource at one of its versions; ``body`` is the kind's own document."""

    id: str
    kind: str
    workspace_id: str
    parent_id: str | None
    version: int
    body: Document
    created_us: int
    updated_us: int
    archived_us: int | None


@dataclass(frozen=True)
class Query:
    """What to list: bounds in microseconds, inclusive; ``after`` is the last row already seen."""

    limit: int
    after: tuple[int, str] | None = None
    include_archived: bool = False
    parent_id: str | None = None
    created_gte_us: int | None = None
    created_lte_us: int | None = None


def get(
    tx: Tx, workspace_id: str, kind: Kind, resource_id: str, version: int | None = None
) -> Resource:
    """Return a resource at its newest or at the given version.

    Raises:
        NotFound: not in this workspace, of another kind, or no such version.
    """
    row = tx.run(_ONE, {"of_id": resource_id, "of_kind": kind.name, "here": workspace_id}).first()
    if row is None:
        raise NotFound(f"no {kind.noun} {resource_id[:80]!r}")
    found = _resource(row)
    if version is None or version == found.version:
        return found
    old = tx.execute(
        select(resource_versions).where(
            resource_versions.c.resource_id == resource_id,
            resource_versions.c.version == version,
        )
    ).first()
    if old is None:
        raise NotFound(f"no version {version} of {kind.noun} {resource_id!r}")
    return replace(found, version=old.version, body=old.body, updated_us=old.created_us)


def create(
    tx: Tx, actor: Actor, kind: Kind, body: Document, *, parent_id: str | None = None
) -> Resource:
    """Store a new resource as version 1 and return it."""
    now_us = to_micros(actor.clock.now())
    made = Resource(
        id=actor.ids.new(kind.prefix),
        kind=kind.name,
        workspace_id=actor.workspace_id,
        parent_id=parent_id,
        version=1,
        body=body,
        created_us=now_us,
        updated_us=now_us,
        archived_us=None,
    )
    _audit(tx, actor, "create", made)
    tx.later(_INSERT, {**vars(made), "body": dict(body), "sort_key": sort_key(kind, body)})
    _keep_version(tx, kind, made)
    return made


def change(
    tx: Tx, actor: Actor, kind: Kind, current: Resource, body: Document, *, act: str = "update"
) -> Resource:
    """Store a new body as the next version; a body that changes nothing stores nothing.

    Args:
        current: the resource as this transaction read it.
        act: the audit record's verb.
    """
    if body == current.body:
        return current
    # Never before the last change, so that versions and times agree when the clock steps back.
    now_us = max(to_micros(actor.clock.now()), current.updated_us)
    changed = replace(current, version=current.version + 1, body=body, updated_us=now_us)
    _audit(tx, actor, act, changed)
    tx.execute(
        update(resources)
        .where(resources.c.id == current.id)
        .values(
            version=changed.version,
            body=dict(body),
            updated_us=now_us,
            sort_key=sort_key(kind, body),
        )
    )
    _keep_version(tx, kind, changed)
    return changed


def archive(tx: Tx, actor: Actor, current: Resource) -> Resource:
    """Archive a resource; a second time changes nothing (contract-1 AMB 33)."""
    if current.archived_us is not None:
        return current
    now_us = max(to_micros(actor.clock.now()), current.updated_us)
    archived = replace(current, archived_us=now_us, updated_us=now_us)
    _audit(tx, actor, "archive", archived)
    tx.execute(
        update(resources)
        .where(resources.c.id == current.id)
        .values(archived_us=now_us, updated_us=now_us)
    )
    return archived


def remove(tx: Tx, actor: Actor, current: Resource) -> None:
    """Delete a resource that nothing refers to, with its versions."""
    _audit(tx, actor, "delete", current)
    tx.execute(delete(resource_versions).where(resource_versions.c.resource_id == current.id))
    tx.execute(delete(resources).where(resources.c.id == current.id))


def find(tx: Tx, workspace_id: str, kind: Kind, query: Query) -> tuple[list[Resource], bool]:
    """Return a page, newest first (contract-1 AMB 35), and whether there is more."""
    wanted: dict[str, object] = {
        "here": workspace_id,
        "of_kind": kind.name,
        "of_parent": query.parent_id,
        "gte_us": query.created_gte_us,
        # A place lies within the bounds, so it is the closer one on its side.
        "lte_us": query.created_lte_us if query.after is None else None,
    }
    shape = frozenset(name for name, value in wanted.items() if value is not None)
    if query.after is not None:
        wanted["after_us"], wanted["after_id"] = query.after
    statement = _page(shape, query.after is not None, query.include_archived)
    given = {name: value for name, value in wanted.items() if value is not None}
    rows = tx.run(statement, {**given, "count": query.limit + 1}).all()
    return [_resource(row) for row in rows[: query.limit]], len(rows) > query.limit


def versions(
    tx: Tx, current: Resource, limit: int, below: int | None
) -> tuple[list[Resource], bool]:
    """Return a page of a resource's versions, highest first, and whether there is more."""
    table = resource_versions.c
    rows = tx.execute(
        select(resource_versions)
        .where(
            table.resource_id == current.id, *(() if below is None else (table.version < below,))
        )
        .order_by(table.version.desc())
        .limit(limit + 1)
    ).all()
    found = [
        replace(current, version=row.version, body=row.body, updated_us=row.created_us)
        for row in rows[:limit]
    ]
    return found, len(rows) > limit


def check_version(kind: Kind, current: Resource, expected: int | None) -> None:
    """Refuse an update that was meant for another version (contract 5.8).

    Raises:
        Conflict: even if the fields match what is stored.
    """
    if expected is not None and expected != current.version:
        raise Conflict(
            f"version: {kind.noun} {current.id!r} is at version {current.version}, not {expected}"
        )


def check_active(kind: Kind, current: Resource, *, code: str | None = None) -> None:
    """Refuse a change to an archived resource.

    Raises:
        InvalidRequest: it is archived.
    """
    if current.archived_us is not None:
        raise InvalidRequest(f"{kind.noun} {current.id!r} is archived and cannot change", code=code)


def sort_key(kind: Kind, body: Document) -> str | None:
    """Return what sorts a resource in its kind's list by name: the case of ASCII is ignored."""
    value = None if kind.sort_field is None else body[kind.sort_field]
    return None if value is None else "".join(c.lower() if c.isascii() else c for c in value)


def digest(body: Document) -> str:
    """Return the SHA-256 of a document, for the audit chain: it says which, not what."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical).hexdigest()


def _audit(tx: Tx, actor: Actor, act: str, target: Resource) -> None:
    fields = {
        "id": target.id,
        "by": actor.by,
        "version": target.version,
        "digest": digest(target.body),
    }
    if target.parent_id is not None:
        fields["parent_id"] = target.parent_id
    audit.record(
        tx,
        actor.clock,
        f"{target.kind}.{act}",
        workspace_id=actor.workspace_id,
        fields=fields,
    )


def _keep_version(tx: Tx, kind: Kind, target: Resource) -> None:
    if kind.versioned:
        row = {
            "resource_id": target.id,
            "version": target.version,
            "body": dict(target.body),
            "created_us": target.updated_us,
        }
        tx.later(_INSERT_VERSION, row)


def _resource(row: Row[Any]) -> Resource:
    values: tuple[Any, ...] = tuple(row)
    return Resource(*values)


_COLUMNS: Final = tuple(resources.c[name] for name in Resource.__dataclass_fields__)
_INSERT: Final = Prepared(insert(resources))
_INSERT_VERSION: Final = Prepared(insert(resource_versions))
_ONE: Final = Prepared(
    select(*_COLUMNS).where(
        resources.c.id == bindparam("of_id"),
        resources.c.kind == bindparam("of_kind"),
        resources.c.workspace_id == bindparam("here"),
    )
)


@shaped
def _page(bounds: Collection[str], placed: bool, archived: bool) -> Select[Any]:
    """Return a page's statement, with those conditions that have a value."""
    table = resources.c
    conditions: dict[str, ColumnElement[bool]] = {
        "here": table.workspace_id == bindparam("here"),
        "of_kind": table.kind == bindparam("of_kind"),
        "of_parent": table.parent_id == bindparam("of_parent"),
        "gte_us": table.created_us >= bindparam("gte_us"),
        "lte_us": table.created_us <= bindparam("lte_us"),
    }
    place = (table.created_us, table.id)
    chosen = [condition for name, condition in conditions.items() if name in bounds]
    if not archived:
        chosen.append(table.archived_us.is_(None))
    if placed:
        after: tuple[object, object] = (bindparam("after_us"), bindparam("after_id"))
        chosen.append(beyond(place, after, ascending=False))
    newest_first = (column.desc() for column in place)
    return select(*_COLUMNS).where(*chosen).order_by(*newest_first).limit(bindparam("count"))
