"""Invites: an address, a role and 21 days (contract-2 R364).

We send no mail: whoever invites tells the person. Somebody who comes is let in by their verified
address, or by an administrator who vouches for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, func, insert, or_, select, update

from intramuros.control.identity import audit, emails, groups, people
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span, fetch
from intramuros.control.store.tables import invites
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros
from intramuros.protocol.resources.people import Invite, InviteCreate

Shown = dict[str, Any]

LIFETIME_US: Final = 21 * 24 * 3600 * 1_000_000


@dataclass(frozen=True)
class Filter:
    """Which invites to list; None is any but the deleted ones."""

    email: str | None = None
    roles: Sequence[str] | None = None
    statuses: Sequence[str] | None = None


def create(tx: Tx, actor: Actor, request: InviteCreate) -> Shown:
    """Invite an address.

    Raises:
        InvalidRequest: no address, a member's (``already_member``), one with a pending invite
            (``invite_already_exists``), or too many members (``org_member_limit_exceeded``).
        NotFound: no such group (``rbac_group_not_found``).
    """
    now_us = to_micros(actor.clock.now())
    key = people.key_of(request.email)
    people.check_new(tx, key)
    pending = select(invites.c.id).where(invites.c.email_key == key, _has_status("pending", now_us))
    known = tx.scalar(pending)
    if known is not None:
        raise InvalidRequest(
            f"email: invite {known} to this address is pending", code="invite_already_exists"
        )
    _check_room(tx, now_us)
    group_ids = list(dict.fromkeys(request.rbac_group_ids))
    for group_id in group_ids:
        groups.row_of(tx, group_id)
    invite_id = actor.ids.new("invite")
    _audit(tx, actor, "invite.create", invite_id, role=request.role, groups=group_ids)
    tx.execute(
        insert(invites).values(
            id=invite_id,
            email=emails.shown(request.email),
            email_key=key,
            role=request.role,
            group_ids=group_ids,
            created_us=now_us,
            expires_us=now_us + LIFETIME_US,
        )
    )
    return get(tx, invite_id, now_us)


def get(tx: Tx, invite_id: str, now_us: int) -> Shown:
    """Return an invite as shown, deleted ones included.

    Raises:
        NotFound: there never was one.
    """
    return _shown(_row(tx, invite_id), now_us)


def find(tx: Tx, wanted: Filter, span: Span, now_us: int) -> tuple[list[Shown], bool]:
    """Return a page of invites, newest first, and whether there is more."""
    which: list[ColumnElement[bool]] = [invites.c.deleted_us.is_(None)]
    which += people.matching(invites.c.email_key, invites.c.role, wanted.email, wanted.roles)
    if wanted.statuses is not None:
        which.append(or_(*(_has_status(status, now_us) for status in wanted.statuses)))
    rows, more = fetch(tx, invites, which, span)
    return [_shown(row, now_us) for row in rows], more


def remove(tx: Tx, actor: Actor, invite_id: str) -> None:
    """Withdraw a pending invite.

    Raises:
        NotFound: no such invite.
        InvalidRequest: it is not pending any more.
    """
    now_us = to_micros(actor.clock.now())
    _pending(tx, invite_id, now_us)
    _audit(tx, actor, "invite.delete", invite_id)
    tx.execute(update(invites).where(invites.c.id == invite_id).values(deleted_us=now_us))


def accept(tx: Tx, actor: Actor, invite_id: str, name: str) -> Shown:
    """Make the invited person a member, with the role and the groups of the invite.

    Groups that are gone by now are left out.

    Raises:
        NotFound: no such invite.
        InvalidRequest: it is not pending any more, or the address is a member's.
    """
    now_us = to_micros(actor.clock.now())
    row = _pending(tx, invite_id, now_us)
    made = people.add(tx, actor, row.email, name, row.role)
    _audit(tx, actor, "invite.accept", invite_id, user_id=made.id)
    tx.execute(update(invites).where(invites.c.id == invite_id).values(accepted_us=now_us))
    for group_id in row.group_ids:
        if groups.exists(tx, group_id):
            groups.add_member(tx, actor, group_id, made.id)
    return people.present(made)


def _row(tx: Tx, invite_id: str) -> Row[Any]:
    row = tx.execute(select(invites).where(invites.c.id == invite_id)).first()
    if row is None:
        raise NotFound(f"no invite {invite_id[:80]!r}")
    return row


def _pending(tx: Tx, invite_id: str, now_us: int) -> Row[Any]:
    row = _row(tx, invite_id)
    status = _status(row, now_us)
    if status != "pending":
        raise InvalidRequest(f"invite {invite_id!r} is {status}, not pending")
    return row


def _check_room(tx: Tx, now_us: int) -> None:
    waiting = select(func.count()).select_from(invites).where(_has_status("pending", now_us))
    if people.count(tx) + (tx.scalar(waiting) or 0) >= people.MAX_MEMBERS:
        raise InvalidRequest(
            f"an organization has at most {people.MAX_MEMBERS} members, invited ones included",
            code="org_member_limit_exceeded",
        )


def _status(row: Row[Any], now_us: int) -> str:
    if row.deleted_us is not None:
        return "deleted"
    if row.accepted_us is not None:
        return "accepted"
    return "expired" if row.expires_us <= now_us else "pending"


def _has_status(status: str, now_us: int) -> ColumnElement[bool]:
    """Return what :func:`_status` decides, as a condition."""
    waiting = and_(invites.c.deleted_us.is_(None), invites.c.accepted_us.is_(None))
    return {
        "accepted": and_(invites.c.deleted_us.is_(None), invites.c.accepted_us.is_not(None)),
        "expired": and_(waiting, invites.c.expires_us <= now_us),
        "pending": and_(waiting, invites.c.expires_us > now_us),
    }[status]


def _shown(row: Row[Any], now_us: int) -> Shown:
    accepted_us = row.accepted_us
    return Invite(
        id=row.id,
        accepted_at=None if accepted_us is None else rfc3339(from_micros(accepted_us)),
        email=row.email,
        expires_at=rfc3339(from_micros(row.expires_us)),
        invited_at=rfc3339(from_micros(row.created_us)),
        rbac_group_ids=row.group_ids,
        role=row.role,
        status=_status(row, now_us),  # type: ignore[arg-type]  # one of the four
    ).model_dump()


def _audit(tx: Tx, actor: Actor, kind: str, invite_id: str, **more: object) -> None:
    fields = {"id": invite_id, "by": actor.by, **more}
    audit.record(tx, actor.clock, kind, workspace_id=None, fields=fields)
