"""An installation opened as it is: nothing is made, nothing migrated."""

import os
from dataclasses import dataclass
from pathlib import Path

import anyio

from intramuros.control.identity import audit
from intramuros.control.identity.installation import DATABASE_FILE, MASTER_KEY_FILE
from intramuros.control.store import rekey
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.migrate import check_newest
from intramuros.control.store.rekey import KeyFiles
from intramuros.control.store.secrets import Sealer, load_master_key
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock


@dataclass(frozen=True)
class Place:
    """Where an installation lies, as its server is told; see ``ServerSettings``."""

    data_dir: Path
    database_url: str | None = None
    blob_url: str | None = None

    @property
    def url(self) -> str:
        """The database's URL."""
        file = (self.data_dir / DATABASE_FILE).absolute()
        return self.database_url or f"sqlite:///{file}"

    @property
    def file(self) -> Path | None:
        """The database's file, or None for one on PostgreSQL."""
        path = self.url.removeprefix("sqlite:///")
        return None if path == self.url else Path(path)

    @property
    def master_key(self) -> Path:
        """The file of the key that seals secrets."""
        return self.data_dir / MASTER_KEY_FILE


@dataclass(frozen=True)
class Attached:
    """An open database and the key in force for it."""

    place: Place
    db: Database
    files: KeyFiles
    sealer: Sealer

    def record(self, kind: str, **fields: object) -> None:
        """Put into the audit chain what is about to be done to all of it."""
        clock = SystemClock()
        anyio.run(
            self.db.write,
            lambda tx: audit.record(tx, clock, kind, workspace_id=None, fields=fields),
        )

    def close(self) -> None:
        """Release the database and the key."""
        self.db.close()
        self.files.release()


def attach(place: Place, *, alone: bool = False) -> Attached:
    """Open an installation.

    Args:
        place: where it lies.
        alone: only if no other process on this machine uses its key.

    Raises:
        OperatorError: there is none, its schema is not ours, or its key is missing or another one.
    """
    if place.file is not None and not place.file.exists():
        raise OperatorError(f"there is no database {place.file}", "name the server's --data-dir")
    files = hold_key(place, alone=alone)
    try:
        db = Database.open(place.url, statement_s=0)
    except BaseException:
        files.release()
        raise
    try:
        current, successor = files.current(), files.successor()

        def look(tx: Tx) -> Sealer:
            check_newest(tx.connection)
            sealer = rekey.in_force(tx, current, successor)
            # Once more with the one that was found: alone it is taken on trust.
            return rekey.in_force(tx, sealer, sealer)

        return Attached(place, db, files, anyio.run(db.read, look))
    except BaseException:
        db.close()
        files.release()
        raise


def hold_key(place: Place, *, alone: bool) -> KeyFiles:
    """Hold the files of a master key that is there already.

    Raises:
        OperatorError: it is not there, or in use by others.
    """
    if not place.master_key.exists():
        raise OperatorError(
            f"there is no master key {place.master_key}",
            "put it back from where you keep it; if it is lost: docs/how-to/disaster.md",
        )
    return KeyFiles(place.master_key, alone=alone)


def sealer_of(file: Path) -> Sealer:
    """Return the sealer of a master key that is kept anywhere.

    Raises:
        OperatorError: there is none, or it is no key.
    """
    if not file.exists():
        raise OperatorError(f"there is no master key {file}", "name the file that holds it")
    return Sealer(load_master_key(file, os.urandom), os.urandom)


def fingerprint(sealer: Sealer) -> str:
    """Return the name of a master key, which tells nothing of it."""
    return sealer.mark("fingerprint")[:32]
