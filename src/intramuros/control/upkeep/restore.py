"""Puts a backup into an installation that is empty, on either engine.

::

    DATA_DIR/intramuros.db.restoring    the rows until they are in place

As long as that file is there no server starts: a restore that was broken off is run again, and
goes on with the files that it has. First come the bytes of files, then the rows at this program's
schema: on SQLite by one rename, on PostgreSQL in one transaction.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from intramuros.control.identity import audit
from intramuros.control.identity.installation import DATABASE_FILE, RESTORING_SUFFIX
from intramuros.control.store import rekey, snapshots, whole
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.drivers import DRIVERS
from intramuros.control.store.migrate import upgrade
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.sqlite import PREFIX, Sqlite
from intramuros.control.store.whole import Tell
from intramuros.control.upkeep import backup, blob_copies, manifest
from intramuros.control.upkeep.attached import Attached, Place, hold_key
from intramuros.control.upkeep.manifest import BadBackup, Manifest
from intramuros.kernel.errors import OperatorError, Unavailable
from intramuros.kernel.timing import SystemClock

BY: Final = "intramuros db restore"
_PART_BYTES: Final = 1024 * 1024
# What SQLite keeps beside a file that was not closed.
JOURNALS: Final = ("-wal", "-journal")


@dataclass(frozen=True)
class Restored:
    """What was put where: the manifest's numbers, and files that are not there.

    ``lost`` are keys of blobs that the backup does not hold and the store does not give.
    """

    manifest: Manifest
    lost: tuple[str, ...]


def restore(directory: Path, target: Place, tell: Tell) -> Restored:
    """Restore a backup.

    Args:
        directory: the backup.
        target: an installation that has a master key and nothing else.
        tell: gets lines of progress.

    Raises:
        OperatorError: the target is not empty or in use, or the key is another one.
        BadBackup: the backup is not what was written.
        Unavailable: the database or the blob store refused.
    """
    files = hold_key(target, alone=True)
    try:
        sealer = files.current()
        found = manifest.read(directory, sealer)
        check_empty(target)
        tell("checking the backup")
        backup.check_backup(directory, found)
        staged = _staging(target)
        try:
            _stage(directory / manifest.DATABASE, staged, found, sealer)
            lost = _put_blobs(directory, target, found, tell)
            if target.file is not None:
                staged.rename(target.file)
                snapshots.synced(target.file.parent)
            else:
                put_rows(staged, target.url, tell)
                staged.unlink()
            snapshots.synced(target.data_dir)
        except OSError as error:
            raise OperatorError(
                f"cannot write {error.filename or target.data_dir} ({error.strerror})",
                "free space or name another directory, and run it again",
            ) from error
    finally:
        files.release()
    return Restored(found, tuple(lost))


@dataclass(frozen=True)
class PutBack:
    """Keys of blobs that are there again, and of those that no backup at hand has."""

    put_back: tuple[str, ...]
    lost: tuple[str, ...]


def restore_files(directory: Path, target: Attached, tell: Tell) -> PutBack:
    """Put back the bytes of files that a store in use has lost, as far as a backup has them.

    What is put back is compared with the rows in use, so that the backup may be of an older key.

    Raises:
        OperatorError: there is no backup.
        BadBackup: it is not what was written.
        Unavailable: the blob store refused.
    """
    found = manifest.read(directory, None)
    manifest.check_content(directory / manifest.BLOBS, found.blob_list)
    store = Blobs.open(target.place.blob_url, target.place.data_dir)
    wanted = list(anyio.run(target.db.read, blob_copies.held).values())
    wrong = blob_copies.damaged(store, wanted, tell)
    has = {blob.key: blob for blob in blob_copies.load(directory / manifest.BLOBS)}
    able = [blob for blob in wrong if found.with_blobs and has.get(blob.key) == blob]
    target.record("installation.restore_files", by=BY, keys=len(able), made_at=found.made_at)
    kept = Blobs.open(f"file://{directory.absolute() / manifest.BLOB_DIR}", directory)
    missing = {blob.key for blob in blob_copies.copy(kept, store, able, tell)}
    done = {blob.key for blob in able} - missing
    return PutBack(
        tuple(sorted(done)), tuple(sorted(blob.key for blob in wrong if blob.key not in done))
    )


def check_empty(target: Place) -> None:
    """Make sure that there is nothing to be overwritten.

    Raises:
        OperatorError: there is.
    """
    if target.file is not None:
        if target.file.exists() and target.file.stat().st_size:
            raise OperatorError(f"{target.file} is there already", "name an empty --data-dir")
        for suffix in JOURNALS:
            # SQLite would write its pages over the rows that are restored.
            beside = target.file.with_name(target.file.name + suffix)
            if beside.exists() and beside.stat().st_size:
                raise OperatorError(
                    f"{beside} is there: the newest rows of a database that is not",
                    "move it away with that database; SQLite reads them only together",
                )
        return
    db = Database.open(target.url, statement_s=0)
    try:
        taken = anyio.run(db.read, lambda tx: whole.occupied(tx.connection))
    finally:
        db.close()
    if taken is not None:
        raise OperatorError(
            f"the database is not empty: the table {taken} has rows", "name an empty database"
        )


def put_rows(file: Path, url: str, tell: Tell) -> dict[str, whole.Sum]:
    """Copy the rows of a file at our schema into an empty PostgreSQL database: all or none.

    What arrived is read back and compared before it counts.

    Raises:
        OperatorError: the database is not empty, or cannot hold what is there.
        Unavailable: it refused.
    """
    with snapshots.frozen(file) as source:
        whole.check_fits_postgres(source)
        return put_all(source, url, tell)


def put_all(source: Connection, url: str, tell: Tell) -> dict[str, whole.Sum]:
    """Like :func:`put_rows`, of rows that a transaction sees."""
    db = Database.open(url, statement_s=0)
    backend = db.backend
    try:
        upgrade(db.engine)
        with db.engine.connect() as target, backend.transaction(target, None):
            snapshots.be_patient(target)
            taken = whole.occupied(target)
            if taken is not None:
                raise OperatorError(
                    f"the database is not empty: the table {taken} has rows",
                    "name an empty database",
                )
            copied = whole.copy(source, target, tell)
            check_same(copied, whole.sums(target, tell))
    except (DBAPIError, DRIVERS[db.engine.dialect.name].failure) as error:
        cause = str(getattr(error, "orig", error)).splitlines()[0]
        raise Unavailable(f"the database refused, and nothing was changed: {cause}") from error
    finally:
        db.close()
    return copied


def check_same(one: dict[str, whole.Sum], other: dict[str, whole.Sum]) -> None:
    """Compare what two databases hold.

    Raises:
        BadBackup: it is not the same; says where.
    """
    for name, found in one.items():
        if other.get(name) != found:
            raise BadBackup(f"the table {name} did not arrive as it was")


def _staging(target: Place) -> Path:
    # Beside the master key: whoever starts a server there looks for it.
    return target.data_dir / f"{DATABASE_FILE}{RESTORING_SUFFIX}"


def _stage(database: Path, staged: Path, found: Manifest, sealer: Sealer) -> None:
    """Make the rows ready: at our schema, of our key, and with the record of what is done."""
    for beside in ("", "-shm", *JOURNALS):
        staged.with_name(staged.name + beside).unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with database.open("rb") as source, os.fdopen(descriptor, "wb") as copy:
        while part := source.read(_PART_BYTES):
            copy.write(part)
    snapshots.synced(staged.parent)
    manifest.check_content(staged, found.database)
    made = Sqlite.open(f"{PREFIX}{staged}")
    try:
        upgrade(made.engine)
        with made.engine.connect() as connection, made.transaction(connection, None):
            tx = Tx(connection)
            rekey.in_force(tx, sealer, sealer)
            audit.record(
                tx,
                SystemClock(),
                "installation.restore",
                workspace_id=None,
                fields={"by": BY, "made_at": found.made_at, "audit_hash": found.audit_hash},
            )
        snapshots.one_file(made.engine)
    finally:
        made.engine.dispose()
        made.readers.dispose()
    snapshots.synced(staged)


def _put_blobs(directory: Path, target: Place, found: Manifest, tell: Tell) -> list[str]:
    """Put the bytes of files into their store; return the keys of those that nobody has."""
    wanted = list(blob_copies.load(directory / manifest.BLOBS))
    store = Blobs.open(target.blob_url, target.data_dir)
    if not found.with_blobs:
        return sorted(blob.key for blob in blob_copies.damaged(store, wanted, tell))
    kept = Blobs.open(f"file://{directory.absolute() / manifest.BLOB_DIR}", directory)
    missing = {blob.key for blob in blob_copies.copy(kept, store, wanted, tell)}
    unexpected = sorted(missing - set(found.lost))
    if unexpected:
        raise BadBackup(f"the file {unexpected[0]} is missing or damaged")
    return sorted(missing)
