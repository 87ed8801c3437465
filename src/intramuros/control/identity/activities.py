"""The compliance feed: what happened in the organization, newest first (contract-2 R374 to R377).

Each activity is a record of the hash-chained audit log. Nothing of it is kept twice: an index says
which records are activities, and all that is shown is read from the record, besides the addresses
of people and the URLs of issuers, which records only name by id.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, select, tuple_, union_all

from intramuros.control.identity import audit, compliance
from intramuros.control.identity.activity_actors import actor
from intramuros.control.identity.activity_types import ACCESSED, NAMES, TYPES
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import activities as table
from intramuros.control.store.tables import audit as chain
from intramuros.control.store.tables import invites, resources, users
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import from_micros, rfc3339

Shown = dict[str, Any]

# Six years, two of them leap years.
RETENTION_US: Final = (6 * 365 + 2) * 24 * 3600 * 1_000_000
_ID: Final = re.compile(r"activity_([0-9a-f]{12})([0-9a-f]{16})\Z", re.ASCII)
# Ids in one statement: SQLite takes more, but not without end.
_BATCH: Final = 500


@dataclass(frozen=True)
class Query:
    """Which activities to return; None is any.

    ``types`` and ``not_types`` exclude each other. ``organization_only`` leaves out what belongs to
    no organization: calls of this API. ``since_us`` and ``before_us`` bound the time,
    the first inclusively.
    """

    limit: int
    oldest_first: bool = False
    types: Sequence[str] | None = None
    not_types: Sequence[str] | None = None
    actor_ids: Sequence[str] | None = None
    organization_only: bool = False
    since_us: int | None = None
    before_us: int | None = None
    after_id: str | None = None
    before_id: str | None = None


def set_state(tx: Tx, at: Actor, *, on: bool) -> None:
    """Switch the feed; to what it is already changes nothing.

    The switching itself is in the feed, both ways.
    """
    if compliance.enabled(tx) == on:
        return
    fields = {"by": at.by, "enabled": on}
    if on:
        compliance.switch(tx, at.clock, on=True)
    audit.record(tx, at.clock, "compliance.update", workspace_id=None, fields=fields)
    if not on:
        compliance.switch(tx, at.clock, on=False)


def note_access(tx: Tx, at: Actor, request_id: str, url: str) -> None:
    """Record that somebody is about to be shown activities."""
    said = {"by": at.by, "request_id": request_id, "method": "GET", "status": 200, "url": url}
    audit.record(tx, at.clock, "compliance.access", workspace_id=None, fields=said)


def find(tx: Tx, query: Query, organization_id: str, now_us: int) -> tuple[list[Shown], bool]:
    """Return a page of activities and whether there is more in the direction that was asked for.

    Raises:
        InvalidRequest: types to include and to exclude, two positions, or a position that is no
            activity's.
    """
    if query.types is not None and query.not_types is not None:
        raise InvalidRequest("activity_types[]: not together with exclude_activity_types[]")
    if query.after_id is not None and query.before_id is not None:
        raise InvalidRequest("after_id: not together with before_id")
    backwards = query.before_id is not None
    upwards = query.oldest_first != backwards
    conditions = [*_conditions(query, now_us), *_beyond(tx, query, upwards=upwards)]
    rows = _read(tx, query, conditions, upwards=upwards)
    more, rows = len(rows) > query.limit, rows[: query.limit]
    return _present(tx, rows[::-1] if backwards else rows, organization_id), more


def _conditions(query: Query, now_us: int) -> list[ColumnElement[bool]]:
    since_us = max(query.since_us or 0, now_us - RETENTION_US)
    found: list[ColumnElement[bool]] = [table.c.at_us >= since_us]
    if query.before_us is not None:
        found.append(table.c.at_us < query.before_us)
    if query.not_types is not None:
        found.append(table.c.type.not_in(sorted(NAMES.intersection(query.not_types))))
    if query.organization_only:
        found.append(table.c.type != ACCESSED)
    if query.actor_ids is not None:
        found.append(table.c.actor_id.in_(query.actor_ids))
    return found


def _beyond(tx: Tx, query: Query, *, upwards: bool) -> list[ColumnElement[bool]]:
    name = "after_id" if query.after_id is not None else "before_id"
    activity_id = query.after_id if query.after_id is not None else query.before_id
    if activity_id is None:
        return []
    here, there = tuple_(table.c.at_us, table.c.seq), tuple_(*_position(tx, name, activity_id))
    return [here > there if upwards else here < there]


def _position(tx: Tx, name: str, activity_id: str) -> tuple[int, int]:
    found = _ID.match(activity_id)
    if found is not None:
        seq = int(found[1], 16)
        row = tx.execute(
            select(table.c.at_us, chain.c.hash).join_from(table, chain).where(table.c.seq == seq)
        ).first()
        if row is not None and row.hash.startswith(found[2]):
            return row.at_us, seq
    raise InvalidRequest(f"{name}: no such activity; start again without it")


def _read(
    tx: Tx, query: Query, conditions: Iterable[ColumnElement[bool]], *, upwards: bool
) -> list[Row[Any]]:
    """Return one row more than a page; each type or actor that was named is walked by itself.

    So a rare one is found through its index, however much there is of the others.
    """

    def page(source: Select[Any]) -> Select[Any]:
        keys = (source.selected_columns.at_us, source.selected_columns.seq)
        ordered = source.order_by(*(key.asc() if upwards else key.desc() for key in keys))
        return ordered.limit(query.limit + 1)

    plain = select(table.c.seq, table.c.at_us).where(*conditions)
    if query.types is not None:
        arms = [table.c.type == name for name in sorted(NAMES.intersection(query.types))]
    elif query.actor_ids is not None:
        arms = [table.c.actor_id == actor_id for actor_id in sorted(set(query.actor_ids))]
    else:
        return list(tx.execute(page(plain)).all())
    if not arms:
        return []
    parts = (page(plain.where(arm)).subquery() for arm in arms)
    every = union_all(*(select(part) for part in parts)).subquery()
    return list(tx.execute(page(select(every.c.seq, every.c.at_us))).all())


def _present(tx: Tx, rows: Sequence[Row[Any]], organization_id: str) -> list[Shown]:
    seqs = [row.seq for row in rows]
    records: dict[int, Mapping[str, Any]] = {}
    for some in _batches(seqs):
        lines = tx.execute(select(chain.c.seq, chain.c.line).where(chain.c.seq.in_(some)))
        records |= {row.seq: json.loads(row.line) for row in lines}
    shown = [
        _activity(records[row.seq], rfc3339(from_micros(row.at_us)), organization_id)
        for row in rows
    ]
    _look_up(tx, shown)
    return shown


def _activity(record: Mapping[str, Any], at: str, organization_id: str) -> Shown:
    kind, fields = TYPES[record["kind"]], record["fields"]
    # Calls of this API belong to no organization, as documented.
    inside = kind.name != ACCESSED
    return {
        "id": f"activity_{record['seq']:012x}{record['hash'][:16]}",
        "type": kind.name,
        "created_at": at,
        "organization_id": organization_tag(organization_id) if inside else None,
        "organization_uuid": organization_id if inside else None,
        "actor": actor(kind, fields),
        **kind.shape(fields),
    }


def organization_tag(organization_id: str) -> str:
    """Return the organization's id in the feed's other spelling."""
    return "org_" + organization_id.replace("-", "")


def _look_up(tx: Tx, shown: Sequence[Shown]) -> None:
    """Fill in what records only name by id: addresses of people, URLs of issuers."""
    people = {a["actor"]["user_id"] for a in shown if "user_id" in a["actor"]}
    people |= {a["deleted_user_id"] for a in shown if "deleted_user_id" in a}
    emails = _column(tx, select(users.c.id, users.c.email), users.c.id, people)
    invited = {a["invite_id"] for a in shown if "invited_email" in a}
    addresses = _column(tx, select(invites.c.id, invites.c.email), invites.c.id, invited)
    url = resources.c.body["issuer_url"].as_string()
    issuers = {a["actor"]["issuer"] for a in shown if "issuer" in a["actor"]}
    urls = _column(tx, select(resources.c.id, url), resources.c.id, issuers)
    for one in shown:
        who = one["actor"]
        if "user_id" in who:
            who["email_address"] = emails.get(who["user_id"], "")
        if "issuer" in who:
            who["issuer"] = urls.get(who["issuer"], "")
        if "deleted_user_id" in one:
            one["deleted_user_email"] = emails.get(one["deleted_user_id"])
        if "invited_email" in one:
            one["invited_email"] = addresses.get(one["invite_id"])


def _column(
    tx: Tx, query: Select[Any], key: ColumnElement[str], ids: Iterable[str]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for some in _batches(sorted(ids)):
        found |= {row[0]: row[1] for row in tx.execute(query.where(key.in_(some)))}
    return found


def _batches(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[start : start + _BATCH] for start in range(0, len(values), _BATCH))
