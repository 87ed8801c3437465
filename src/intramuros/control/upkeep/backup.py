"""Backs up an installation while its servers serve.

The order makes it whole: first the bytes of all files that are referred to now, then one state of
the database, then what that state refers to and was not copied yet. Bytes never change under their
name and go only after their row, so whatever is missing then was deleted since, and a new state is
taken; or the store has lost it, which the manifest says.

Everything is made in a draft beside the destination, which gets its name when it is durable: killed
at any point, no half backup looks whole, and the next run goes on with the draft's files.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import anyio
from sqlalchemy import Connection

from intramuros.control.identity.audit import read_lines
from intramuros.control.store import snapshots, whole
from intramuros.control.store.blobs import Blob, Blobs
from intramuros.control.store.db import Tx
from intramuros.control.store.migrate import revision
from intramuros.control.store.whole import Tell
from intramuros.control.upkeep import blob_copies, manifest
from intramuros.control.upkeep.attached import Attached, fingerprint
from intramuros.control.upkeep.manifest import BadBackup, Manifest
from intramuros.kernel.errors import OperatorError, Unavailable
from intramuros.kernel.timing import SystemClock, rfc3339
from intramuros.protocol.audit import BrokenChain, Head, verify

BY: Final = "intramuros db backup"
# States that are taken until none has lost files to deletions.
ATTEMPTS: Final = 5
_FREE_FACTOR: Final = 1.1
DRAFT_SUFFIX: Final = ".part"


@dataclass(frozen=True)
class Found:
    """What a file of rows was seen to hold."""

    revision: str
    head: Head
    rows: dict[str, int]
    blobs: dict[str, Blob]


def back_up(source: Attached, destination: Path, tell: Tell, *, with_blobs: bool) -> Manifest:
    """Write a backup, and return what it says of itself.

    Args:
        source: the installation.
        destination: a directory that is not there yet.
        tell: gets lines of progress.
        with_blobs: also the bytes of files and skills.

    Raises:
        OperatorError: the destination cannot be used.
        Unavailable: the database or the blob store refused.
    """
    destination = destination.absolute()
    if destination.exists():
        raise OperatorError(f"{destination} is there already", "name a directory that is not")
    with _draft(destination) as draft:
        _check_room(source, draft)
        source.record("installation.backup", by=BY, to=str(destination), with_blobs=with_blobs)
        found, lost = _gather(source, draft, tell, with_blobs=with_blobs)
        blob_copies.dump(found.blobs.values(), draft / manifest.BLOBS)
        made = Manifest(
            made_at=rfc3339(SystemClock().now()),
            version=version("intramuros"),
            engine=source.db.engine.dialect.name,
            revision=found.revision,
            master_key=fingerprint(source.sealer),
            audit_records=found.head.seq,
            audit_hash=found.head.hash,
            rows=found.rows,
            database=manifest.content_of(draft / manifest.DATABASE),
            blob_list=manifest.content_of(draft / manifest.BLOBS),
            blobs=len(found.blobs),
            blob_bytes=sum(blob.size_bytes for blob in found.blobs.values()),
            with_blobs=with_blobs,
            lost=tuple(sorted(lost)),
        )
        manifest.write(draft, made, source.sealer)
        for name in (manifest.MANIFEST, manifest.BLOBS):
            (draft / name).chmod(0o600)
            snapshots.synced(draft / name)
        snapshots.synced(draft)
        draft.rename(destination)
        snapshots.synced(destination.parent)
    return made


def check_backup(directory: Path, made: Manifest) -> list[Blob]:
    """Compare the rows of a backup with its manifest; return the blobs whose bytes it holds.

    Raises:
        BadBackup: something is missing, damaged or does not belong to the rest.
    """
    manifest.check_content(directory / manifest.BLOBS, made.blob_list)
    manifest.check_content(directory / manifest.DATABASE, made.database)
    with snapshots.frozen(directory / manifest.DATABASE) as connection:
        found = examined(connection)
    expected = (made.revision, Head(made.audit_records, made.audit_hash), dict(made.rows))
    if (found.revision, found.head, found.rows) != expected:
        raise BadBackup("the database is another than the manifest's")
    try:
        listed = {blob.key: blob for blob in blob_copies.load(directory / manifest.BLOBS)}
    except ValueError as error:
        raise BadBackup(f"{directory / manifest.BLOBS} is damaged") from error
    if listed != found.blobs:
        raise BadBackup("the list of files is not the database's")
    return [blob for key, blob in listed.items() if made.with_blobs and key not in made.lost]


def check_bytes(directory: Path, blobs: list[Blob], tell: Tell) -> None:
    """Read the bytes of all files in a backup.

    Raises:
        BadBackup: some are missing or damaged.
    """
    store = Blobs.open(f"file://{directory.absolute() / manifest.BLOB_DIR}", directory)
    wrong = blob_copies.damaged(store, blobs, tell)
    if wrong:
        raise BadBackup(f"{len(wrong)} files are missing or damaged: {wrong[0].key} is one")


def examined(connection: Connection) -> Found:
    """Return what a file of rows holds, after a look at all of it.

    Raises:
        BadBackup: it is damaged, or its audit chain is.
    """
    trouble = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
    if trouble != "ok":
        raise BadBackup(f"the database is damaged: {trouble}")
    orphan = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if orphan is not None:
        raise BadBackup(f"the database is damaged: a row of {orphan[0]} refers to none")
    tx = Tx(connection)
    try:
        head = verify(read_lines(tx))
    except BrokenChain as error:
        raise BadBackup(f"the audit chain is not what was written: {error}") from error
    rows = whole.counts(connection)
    return Found(str(revision(connection)), head, rows, blob_copies.held(tx))


def _gather(
    source: Attached, draft: Path, tell: Tell, *, with_blobs: bool
) -> tuple[Found, list[str]]:
    """Put a state and the bytes that it refers to into the draft; return what is lost of those."""
    file = draft / manifest.DATABASE
    if not with_blobs:
        shutil.rmtree(draft / manifest.BLOB_DIR, ignore_errors=True)
        snapshots.take(source.db, file, tell)
        return _look(file), []
    place = source.place
    store = Blobs.open(place.blob_url, place.data_dir)
    kept = Blobs.open(f"file://{draft / manifest.BLOB_DIR}", draft)
    done = anyio.run(source.db.read, blob_copies.held)
    for blob in blob_copies.copy(store, kept, list(done.values()), tell):
        del done[blob.key]
    for _ in range(ATTEMPTS):
        snapshots.take(source.db, file, tell)
        found = _look(file)
        more = [blob for key, blob in found.blobs.items() if done.get(key) != blob]
        missing = blob_copies.copy(store, kept, more, tell)
        now = anyio.run(source.db.read, blob_copies.held)
        lost = [blob.key for blob in missing if blob.key in now]
        if len(lost) == len(missing):
            blob_copies.keep_only(kept, set(found.blobs))
            return found, lost
    raise Unavailable("files are deleted faster than they can be copied: try again later")


def _look(file: Path) -> Found:
    with snapshots.frozen(file) as connection:
        return examined(connection)


@contextmanager
def _draft(destination: Path) -> Iterator[Path]:
    """Hold the directory that becomes a backup, alone among processes; it stays if that fails."""
    draft = destination.with_name(destination.name + DRAFT_SUFFIX)
    try:
        draft.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.chmod(0o700)
        lock = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OperatorError(
            f"cannot write {draft} ({error.strerror})", "check the directory's owner and mode"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OperatorError(
                f"another backup is being written to {draft}", "wait, or name another directory"
            ) from error
        (draft / manifest.MANIFEST).unlink(missing_ok=True)
        yield draft
    finally:
        os.close(lock)


def _check_room(source: Attached, draft: Path) -> None:
    """Refuse a disk that is too small, as far as that is known beforehand."""
    file = source.place.file
    if file is None:
        return
    needed, free = int(file.stat().st_size * _FREE_FACTOR), shutil.disk_usage(draft).free
    if free < needed:
        raise OperatorError(
            f"{draft} has {free} bytes free, and the database alone takes {needed}",
            "name a directory on a larger disk",
        )
