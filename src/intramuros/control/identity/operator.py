"""What only the operator at the machine does with people: make, change and dismiss administrators.

It works on the database, beside a running server or without one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import select

from intramuros.control.identity import people
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.installation import DATABASE_FILE, open_installation
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import users
from intramuros.kernel.errors import InvalidRequest, NotFound, OperatorError
from intramuros.protocol.resources.people import check_label

T = TypeVar("T")
Shown = dict[str, Any]

BY: Final = "intramuros user"
ROLES: Final = ("admin", "billing", "claude_code_user", "developer", "managed", "user")


async def add_user(
    data_dir: Path, email: str, name: str, role: str, database_url: str | None = None
) -> Shown:
    """Make somebody a member, without an invite, and return them.

    Raises:
        OperatorError: there is no installation, or no such role.
        InvalidRequest: no address or name, or the address of a member.
    """
    _check_role(role)
    try:
        label = check_label(name)
    except ValueError as error:
        raise InvalidRequest(f"name: {error}") from error

    def add(tx: Tx, actor: Actor) -> Shown:
        return people.present(people.add(tx, actor, email, label, role))

    return await _act(data_dir, database_url, add)


async def set_role(data_dir: Path, who: str, role: str, database_url: str | None = None) -> Shown:
    """Give a member any role and return them; ``who`` is an id or an address.

    Raises:
        OperatorError: there is no installation, or no such role.
        NotFound: no such member.
        InvalidRequest: it would take the last administrator away.
    """
    _check_role(role)
    return await _act(
        data_dir, database_url, lambda tx, actor: people.appoint(tx, actor, _find(tx, who), role)
    )


async def dismiss_user(data_dir: Path, who: str, database_url: str | None = None) -> None:
    """Take any member out of the organization; ``who`` is an id or an address.

    Raises:
        OperatorError: there is no installation.
        NotFound: no such member.
        InvalidRequest: it would take the last administrator away.
    """
    await _act(data_dir, database_url, lambda tx, actor: people.dismiss(tx, actor, _find(tx, who)))


async def list_users(data_dir: Path, database_url: str | None = None) -> list[Shown]:
    """Return every member, oldest first.

    Raises:
        OperatorError: there is no installation.
    """
    here = select(users).where(users.c.removed_us.is_(None)).order_by(users.c.created_us)
    return await _act(
        data_dir, database_url, lambda tx, _: [people.present(row) for row in tx.execute(here)]
    )


async def _act(data_dir: Path, database_url: str | None, work: Callable[[Tx, Actor], T]) -> T:
    if database_url is None and not (data_dir / DATABASE_FILE).exists():
        raise OperatorError(
            f"there is no database {data_dir / DATABASE_FILE}", "name the server's --data-dir"
        )
    opened = await open_installation(data_dir, database_url)
    try:
        actor = opened.operator(BY)
        return await opened.db.write(lambda tx: work(tx, actor))
    finally:
        opened.close()


def _find(tx: Tx, who: str) -> str:
    which = [users.c.id == who]
    if "@" in who:
        which = [users.c.email_key == people.key_of(who)]
    user_id = tx.scalar(select(users.c.id).where(users.c.removed_us.is_(None), *which))
    if user_id is None:
        raise NotFound(f"no user {who[:80]!r}")
    return str(user_id)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise OperatorError(f"there is no role {role!r}", f"use one of {', '.join(ROLES)}")
