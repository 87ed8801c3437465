"""Another master key: what the old one sealed is sealed anew, all of it or none.

::

    master-key            the key in use
    master-key.next       its successor, from before anything is sealed by it until it is in use

The database changes in one transaction, the files by one rename. Between the two the database tells
which of the keys is in force, so that whoever comes next can finish (:func:`in_force`).
"""

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Column, Table, select, update

from intramuros.control.store import deliveries, repository_tokens, strongbox
from intramuros.control.store.db import Tx
from intramuros.control.store.metering_tables import telemetry_destinations
from intramuros.control.store.repository_tables import repository_tokens as tokens
from intramuros.control.store.secrets import Sealer, load_master_key
from intramuros.control.store.tables import secrets, vault_secrets
from intramuros.control.store.webhook_tables import webhook_endpoints
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger

log = logger("server")

_NEXT: Final = ".next"
_LOCK: Final = ".lock"


@dataclass(frozen=True)
class Sealed:
    """A column that the master key seals; ``name`` gives the name of a row's value by its id."""

    table: Table
    id: Column[str]
    value: Column[bytes]
    name: Callable[[str], str]


# Every one there is: a test finds columns of bytes that are missing here.
SEALED: Final = (
    Sealed(secrets, secrets.c.name, secrets.c.sealed, str),
    Sealed(
        vault_secrets,
        vault_secrets.c.credential_id,
        vault_secrets.c.sealed_key,
        strongbox.key_name,
    ),
    Sealed(
        webhook_endpoints,
        webhook_endpoints.c.id,
        webhook_endpoints.c.secret,
        deliveries.secret_name,
    ),
    Sealed(
        telemetry_destinations,
        telemetry_destinations.c.id,
        telemetry_destinations.c.sealed,
        "telemetry/{}".format,
    ),
    Sealed(tokens, tokens.c.id, tokens.c.sealed_key, repository_tokens.key_name),
)


class KeyFiles:
    """The files of a master key, held for this process.

    Many may hold them to use the key; who changes it must be alone.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        """Hold them.

        Raises:
            OperatorError: another process changes the key, or uses it and ``alone`` was asked for.
        """
        self._path = path
        self._next = path.with_name(path.name + _NEXT)
        mode = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            self._lock = os.open(
                path.with_name(path.name + _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise OperatorError(
                f"cannot use {path} ({error.strerror})",
                "check the directory's owner and free space",
            ) from error
        try:
            fcntl.flock(self._lock, mode | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            fix = (
                "stop the server"
                if alone
                else "wait until `intramuros db rotate-key`, `restore` or `move` is done"
            )
            raise OperatorError("the master key is in use by another process", fix) from error

    def current(self) -> Sealer:
        """Return the sealer of the key in use, made now if there is none.

        Raises:
            OperatorError: unreadable, readable by others, or no key.
        """
        return Sealer(load_master_key(self._path, os.urandom), os.urandom)

    def successor(self) -> Sealer | None:
        """Return the sealer of a successor that some rotation has left behind, or None.

        Raises:
            OperatorError: unreadable, readable by others, or no key.
        """
        return self.make_successor() if self._next.exists() else None

    def make_successor(self) -> Sealer:
        """Return the sealer of the successor, durable on disk before this returns.

        Raises:
            OperatorError: it cannot be written or read.
        """
        return Sealer(load_master_key(self._next, os.urandom), os.urandom)

    def promote(self) -> None:
        """Put the successor in the place of the key in use.

        Raises:
            OperatorError: the files cannot be changed.
        """
        try:
            self._next.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except FileNotFoundError:
            log.info("master_key_promoted_by_another")
        except OSError as error:
            raise OperatorError(
                f"cannot replace {self._path} ({error.strerror})",
                "cure that and run `intramuros db rotate-key` again",
            ) from error

    def release(self) -> None:
        """Let others have them."""
        os.close(self._lock)


def in_force(tx: Tx, current: Sealer, successor: Sealer | None) -> Sealer:
    """Return the one of the two whose key the database is sealed by.

    Raises:
        OperatorError: neither opens what is there.
    """
    if successor is None:
        return current
    for sealed in SEALED:
        row = tx.execute(select(sealed.id, sealed.value).limit(1)).first()
        if row is not None:
            name = sealed.name(row[0])
            if opens(successor, name, row[1]):
                return successor
            current.open(name, row[1])
            return current
    return current


def reseal(tx: Tx, old: Sealer, new: Sealer) -> int:
    """Seal by the new key everything that the old one sealed, and return how many values that is.

    Raises:
        OperatorError: a value does not open; nothing may be kept of this transaction then.
    """
    count = 0
    for sealed in SEALED:
        for row_id, value in tx.execute(select(sealed.id, sealed.value)).all():
            name = sealed.name(row_id)
            fresh = new.seal(name, old.open(name, value))
            tx.execute(
                update(sealed.table).where(sealed.id == row_id).values({sealed.value.name: fresh})
            )
            count += 1
    return count


def opens(sealer: Sealer, name: str, value: bytes) -> bool:
    """Tell whether a key opens a sealed value."""
    try:
        sealer.open(name, value)
    except OperatorError:
        return False
    return True
