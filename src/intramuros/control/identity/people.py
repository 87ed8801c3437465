"""The people of the organization (contract-2 section 20).

Somebody comes by an invite or by the operator's hand, and leaves by being removed; then whatever
acts as them stops at once. Administrators are made, changed and removed only by the operator at
the machine (R364), so that nobody who merely holds a key can appoint one or lock everybody out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update

from intramuros.control.identity import audit, credentials, emails, ssh_certificates
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.roles import ADMIN
from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span, fetch
from intramuros.control.store.tables import group_members, user_workspaces, users
from intramuros.kernel.errors import InvalidRequest, NotFound, PermissionDenied
from intramuros.kernel.timing import from_micros, rfc3339, to_micros
from intramuros.protocol.resources.people import User

Shown = dict[str, Any]

# Everybody who is here and everybody who is invited.
MAX_MEMBERS: Final = 10_000


@dataclass(frozen=True)
class Filter:
    """Which users to list; None is any."""

    email: str | None = None
    roles: Sequence[str] | None = None


def add(tx: Tx, actor: Actor, email: str, name: str, role: str) -> Row[Any]:
    """Make somebody a member of the organization and return their row.

    Raises:
        InvalidRequest: no address, or the address of a member (``already_member``).
    """
    key = key_of(email)
    check_new(tx, key)
    user_id = actor.ids.new("user")
    _audit(tx, actor, "user.add", user_id, role=role)
    tx.execute(
        insert(users).values(
            id=user_id,
            email=emails.shown(email),
            email_key=key,
            name=name,
            role=role,
            created_us=to_micros(actor.clock.now()),
        )
    )
    return row_of(tx, user_id)


def row_of(tx: Tx, user_id: str) -> Row[Any]:
    """Return the row of somebody who is here.

    Raises:
        NotFound: nobody of that id, or they were removed.
    """
    here = (users.c.id == user_id, users.c.removed_us.is_(None))
    row = tx.execute(select(users).where(*here)).first()
    if row is None:
        raise NotFound(f"no user {user_id[:80]!r}")
    return row


def find(tx: Tx, wanted: Filter, span: Span) -> tuple[list[Shown], bool]:
    """Return a page of the members, newest first, and whether there is more."""
    which: list[ColumnElement[bool]] = [users.c.removed_us.is_(None)]
    which += matching(users.c.email_key, users.c.role, wanted.email, wanted.roles)
    rows, more = fetch(tx, users, which, span)
    return [present(row) for row in rows], more


def matching(
    key: ColumnElement[str],
    role: ColumnElement[str],
    email: str | None,
    roles: Sequence[str] | None,
) -> list[ColumnElement[bool]]:
    """Return the conditions of the two filters that users and invites share.

    An address is compared as addresses are; what is none matches nobody.
    """
    which = []
    if email is not None:
        try:
            which.append(key == emails.normal(email))
        except ValueError:
            which.append(key.is_(None))
    if roles is not None:
        which.append(role.in_(roles))
    return which


def change_role(tx: Tx, actor: Actor, user_id: str, role: str) -> Shown:
    """Give a member another role; what acts as them may do only that from the next request on.

    Raises:
        NotFound: no such member.
        InvalidRequest: an administrator, whom only the operator changes.
    """
    row = row_of(tx, user_id)
    if row.role == ADMIN:
        raise InvalidRequest("role: an administrator's role is changed with `intramuros user`")
    _set_role(tx, actor, row, role)
    return present(row_of(tx, user_id))


def appoint(tx: Tx, actor: Actor, user_id: str, role: str) -> Shown:
    """Give a member any role; for the operator at the machine.

    Raises:
        NotFound: no such member.
        InvalidRequest: it would take the last administrator away.
    """
    row = row_of(tx, user_id)
    if row.role == ADMIN and role != ADMIN:
        _check_other_admin(tx, user_id)
    _set_role(tx, actor, row, role)
    return present(row_of(tx, user_id))


def remove(tx: Tx, actor: Actor, user_id: str) -> None:
    """Take a member out of the organization; what acts as them stops working at once.

    Keys that they merely made stay: those belong to a workspace.

    Raises:
        NotFound: no such member.
        InvalidRequest: an administrator, or the only member (``cannot_remove_last_member``).
    """
    row = row_of(tx, user_id)
    if row.role == ADMIN:
        raise InvalidRequest("an administrator is removed with `intramuros user`")
    others = select(users.c.id).where(users.c.removed_us.is_(None), users.c.id != user_id)
    if tx.scalar(others.limit(1)) is None:
        raise InvalidRequest(
            "the last member cannot be removed: add another one first",
            code="cannot_remove_last_member",
        )
    _remove(tx, actor, row)


def dismiss(tx: Tx, actor: Actor, user_id: str) -> None:
    """Take any member out of the organization; for the operator at the machine.

    Raises:
        NotFound: no such member.
        InvalidRequest: it would take the last administrator away.
    """
    row = row_of(tx, user_id)
    if row.role == ADMIN:
        _check_other_admin(tx, user_id)
    _remove(tx, actor, row)


def sign_out(tx: Tx, actor: Actor, user_id: str) -> Shown:
    """End whatever a member signed in with; their API keys stay, and so does their role.

    Raises:
        NotFound: no such member.
        InvalidRequest: the caller acts as that member (``cannot_sign_out_self``).
        PermissionDenied: a federated caller and an administrator
            (``cannot_sign_out_privileged_member``).
    """
    row = row_of(tx, user_id)
    if actor.user_id == user_id:
        raise InvalidRequest("nobody signs themselves out here", code="cannot_sign_out_self")
    if row.role == ADMIN and actor.service_account_id is not None:
        raise PermissionDenied(
            "a federated token cannot sign out an administrator: use an API key",
            code="cannot_sign_out_privileged_member",
        )
    now_us = to_micros(actor.clock.now())
    ended = credentials.revoke_sign_ins(tx, user_id, now_us)
    _reconsider(tx, actor, user_id)
    _audit(tx, actor, "user.sign_out", user_id, ended=ended)
    tx.execute(update(users).where(users.c.id == user_id).values(signed_out_us=now_us))
    return present(row)


def check_new(tx: Tx, key: str) -> None:
    """Refuse the address of somebody who is here.

    Raises:
        InvalidRequest: ``already_member``, naming the user.
    """
    taken = select(users.c.id).where(users.c.email_key == key, users.c.removed_us.is_(None))
    user_id = tx.scalar(taken)
    if user_id is not None:
        raise InvalidRequest(
            f"email: user {user_id} with this address is a member already", code="already_member"
        )


def key_of(email: str) -> str:
    """Return how an address is compared.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        return emails.normal(email)
    except ValueError as error:
        raise InvalidRequest(f"email: {error}") from error


def count(tx: Tx) -> int:
    """Return how many people are here."""
    here = select(func.count()).select_from(users).where(users.c.removed_us.is_(None))
    return tx.scalar(here) or 0


def present(row: Row[Any]) -> Shown:
    """Return a user as the API shows them."""
    return User(
        id=row.id,
        added_at=rfc3339(from_micros(row.created_us)),
        email=row.email,
        name=row.name,
        role=row.role,
    ).model_dump()


def _set_role(tx: Tx, actor: Actor, row: Row[Any], role: str) -> None:
    if role != row.role:
        _audit(tx, actor, "user.role", row.id, role=role, previous=row.role)
        tx.execute(update(users).where(users.c.id == row.id).values(role=role))
        _reconsider(tx, actor, row.id)


def _remove(tx: Tx, actor: Actor, row: Row[Any]) -> None:
    now_us = to_micros(actor.clock.now())
    _audit(tx, actor, "user.remove", row.id, previous=row.role)
    credentials.revoke_principal(tx, row.id, now_us)
    for table in (user_workspaces, group_members):
        tx.execute(delete(table).where(table.c.user_id == row.id))
    removed = update(users).where(users.c.id == row.id)
    tx.execute(removed.values(removed_us=max(now_us, row.created_us)))
    _reconsider(tx, actor, row.id)


def _reconsider(tx: Tx, actor: Actor, user_id: str) -> None:
    """End what has been given to somebody in another shape: certificates."""
    ssh_certificates.reconsider(tx, actor.clock, ssh_certificates.of_principal(user_id))


def _check_other_admin(tx: Tx, user_id: str) -> None:
    others = select(users.c.id).where(
        users.c.removed_us.is_(None), users.c.role == ADMIN, users.c.id != user_id
    )
    if tx.scalar(others.limit(1)) is None:
        raise InvalidRequest("the last administrator stays: appoint another one first")


def _audit(tx: Tx, actor: Actor, kind: str, user_id: str, **more: object) -> None:
    fields = {"id": user_id, "by": actor.by, **more}
    audit.record(tx, actor.clock, kind, workspace_id=None, fields=fields)
