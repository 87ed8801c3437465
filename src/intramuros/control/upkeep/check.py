"""Says what is wrong with an installation, where, and what to do about it. Changes nothing.

Each look goes on where the one before it has found damage, as far as that can be.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Final

from sqlalchemy import Connection, func, or_, select
from sqlalchemy.exc import DBAPIError

from intramuros.control.catalog.kinds import CERTIFICATE
from intramuros.control.identity.audit import read_lines
from intramuros.control.identity.installation import DATABASE_FILE, RESTORING_SUFFIX
from intramuros.control.session import threads
from intramuros.control.session.fold import fold
from intramuros.control.session.fold_thread import IllegalRecord
from intramuros.control.session.state import initial, load
from intramuros.control.store import events, migrate, partitions, snapshots
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.drivers import DRIVERS
from intramuros.control.store.rekey import SEALED, KeyFiles, opens
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.tables import blobs, resources, sessions
from intramuros.control.store.tables import events as event_table
from intramuros.control.store.whole import Tell
from intramuros.control.upkeep import blob_copies
from intramuros.control.upkeep.attached import Place, fingerprint
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.kernel.timing import SystemClock, from_micros, rfc3339, to_micros
from intramuros.protocol.audit import BrokenChain, verify

RUNBOOK: Final = "docs/how-to/disaster.md"
PARTITIONS: Final = "docs/how-to/retention.md"
# How many of a kind are named; the rest is counted.
NAMED: Final = 5
_RESTORE: Final = f"restore a backup: {RUNBOOK}"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``fix`` is empty if it is as it should be."""

    what: str
    fix: str = ""


def examine(place: Place, tell: Tell, *, deep: bool = False) -> Iterator[Finding]:
    """Yield what was found.

    Args:
        place: the installation; nothing of it need be whole.
        tell: gets lines of progress.
        deep: also read the bytes of every file, and fold every session's log.

    Raises:
        OperatorError: there is no database, or none that can be opened.
    """
    staged = place.data_dir / f"{DATABASE_FILE}{RESTORING_SUFFIX}"
    if staged.exists():
        yield Finding(
            f"a restore was broken off: {staged} is there", "run `intramuros db restore` again"
        )
    if place.file is not None and not place.file.exists():
        raise OperatorError(f"there is no database {place.file}", "name the server's --data-dir")
    sealers, trouble = _keys(place)
    if trouble is not None:
        yield trouble
    db = Database.open(place.url, statement_s=0)
    try:
        looks = _looks(place, sealers, tell, deep=deep)
        try:
            with snapshots.reading(db) as connection:
                for look in looks:
                    yield from _safely(db, look, connection)
        except (DBAPIError, DRIVERS[db.engine.dialect.name].failure) as error:
            yield _damage(error)
    finally:
        db.close()


Look = Callable[[Connection], Iterator[Finding]]


def _looks(place: Place, sealers: list[Sealer], tell: Tell, *, deep: bool) -> list[Look]:
    found: list[Look] = [_engine, _schema, _partitions, _chain, _logs]
    if deep:
        found.append(lambda connection: _folds(connection, tell))
    found.append(lambda connection: _sealed(connection, sealers))
    found.append(lambda connection: _files(connection, place, tell, deep=deep))
    found.append(_certificates)
    return found


def _safely(db: Database, look: Look, connection: Connection) -> Iterator[Finding]:
    try:
        yield from look(connection)
    except (DBAPIError, DRIVERS[db.engine.dialect.name].failure) as error:
        yield _damage(error)


def _damage(error: Exception) -> Finding:
    cause = str(getattr(error, "orig", error)).splitlines()[0]
    return Finding(f"the database cannot be read: {cause}", f"stop the servers and {_RESTORE}")


def _keys(place: Place) -> tuple[list[Sealer], Finding | None]:
    if not place.master_key.exists():
        return [], Finding(
            f"there is no master key {place.master_key}",
            f"put it back from where you keep it; if it is lost: {RUNBOOK}",
        )
    try:
        files = KeyFiles(place.master_key)
        try:
            successor = files.successor()
            return [files.current(), *([successor] if successor else [])], None
        finally:
            files.release()
    except OperatorError as error:
        return [], Finding(error.problem, error.fix)


def _engine(connection: Connection) -> Iterator[Finding]:
    if connection.dialect.name != "sqlite":
        yield Finding("the database answers; its server checks its own pages")
        return
    wrong = [
        str(row[0])
        for row in connection.exec_driver_sql(f"PRAGMA integrity_check({NAMED})")
        if row[0] != "ok"
    ]
    for line in wrong:
        yield Finding(
            f"the database file is damaged: {' '.join(line.split())}",
            f"stop the server and {_RESTORE}",
        )
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(NAMED)
    for table, rowid, parent, _ in orphans:
        yield Finding(
            f"row {rowid} of the table {table} refers to a row of {parent} that is not there",
            f"stop the server and {_RESTORE}",
        )
    if not wrong and not orphans:
        yield Finding("the database file is whole")


def _schema(connection: Connection) -> Iterator[Finding]:
    found, head = migrate.revision(connection), migrate.scripts().get_current_head()
    if found != head:
        yield Finding(f"the schema is {found}, not {head}", "run `intramuros db upgrade`")
    else:
        yield Finding(f"schema {found}")


def _partitions(connection: Connection) -> Iterator[Finding]:
    """Every log has its place, and a month has one before it begins (PostgreSQL)."""
    if connection.dialect.name == "sqlite" or not partitions.divided(connection):
        return
    parts, now = partitions.found(connection), SystemClock().now()
    if not partitions.whole(parts):
        shown = ", ".join(f"{part.name} [{part.lower}, {part.upper or ''})" for part in parts)
        yield Finding(
            f"some sessions' logs have no partition to lie in: {shown}", f"see {PARTITIONS}"
        )
        return
    last = parts[-1]
    begins = partitions.time_of(last.lower)
    if begins is not None and begins <= now:
        fill = f", which holds {last.all_bytes} bytes already" if last.row_bytes else ""
        yield Finding(
            f"this month has no partition of its own; new logs lie in the last one{fill}",
            f"a server cuts it within minutes; if none does: {PARTITIONS}",
        )
    elif last.row_bytes and begins is not None:
        yield Finding(
            f"the last partition, of sessions from {rfc3339(begins)} on, holds logs already",
            f"set the clocks of the machines that run servers: {PARTITIONS}",
        )
    else:
        yield Finding(f"the log lies in {len(parts)} partitions")


def _chain(connection: Connection) -> Iterator[Finding]:
    try:
        head = verify(read_lines(Tx(connection)))
    except BrokenChain as error:
        yield Finding(
            f"the audit chain is not what was written: {error}",
            f"somebody changed the database: keep this copy, compare it with backups: {RUNBOOK}",
        )
        return
    yield Finding(f"audit {head.seq} records, the last {head.hash}")


def _logs(connection: Connection) -> Iterator[Finding]:
    """Each log has every position from 1 to where its session says that it ends."""
    e, s = event_table.c, sessions.c
    count, first, last = func.count(), func.min(e.seq), func.max(e.seq)
    logs = (
        select(
            e.session_id, count.label("held"), first.label("first"), last.label("last")
        ).group_by(e.session_id)
    ).subquery()
    query = (
        select(s.id, s.last_seq, logs.c.held, logs.c.first, logs.c.last)
        .outerjoin(logs, logs.c.session_id == s.id)
        .where(
            or_(
                func.coalesce(logs.c.held, 0) != s.last_seq,
                func.coalesce(logs.c.last, 0) != s.last_seq,
                logs.c.first != 1,
            )
        )
        .order_by(s.id)
    )
    broken = connection.execute(query).all()
    for row in broken[:NAMED]:
        yield Finding(
            f"the log of session {row.id} has {row.held or 0} events of {row.last_seq}", _RESTORE
        )
    if len(broken) > NAMED:
        yield Finding(f"the logs of {len(broken) - NAMED} more sessions have gaps", _RESTORE)
    total = connection.execute(select(func.count()).select_from(sessions)).scalar()
    if not broken:
        yield Finding(f"the logs of {total} sessions have no gap")


def _folds(connection: Connection, tell: Tell) -> Iterator[Finding]:
    """Each session's state is what its log adds up to."""
    tx, wrong = Tx(connection), 0
    ids = connection.execute(select(sessions.c.id).order_by(sessions.c.id)).scalars().all()
    for n, session_id in enumerate(ids):
        tell(f"folding logs: {n} of {len(ids)}")
        query = select(sessions.c.state).where(sessions.c.id == session_id)
        if not _folds_to(tx, session_id, connection.execute(query).scalar_one()):
            wrong += 1
            if wrong <= NAMED:
                yield Finding(f"the log of session {session_id} adds up to another state", _RESTORE)
    if not wrong:
        yield Finding(f"the logs of {len(ids)} sessions add up to their states")


def _folds_to(tx: Tx, session_id: str, state: Mapping[str, object]) -> bool:
    try:
        stored = load(state)
        empty = initial(
            stored.thread_id, self_hosted=stored.self_hosted, crewed=stored.crew is not None
        )
        found = reduce(fold, events.read(tx, session_id), empty)
        if stored.crew is not None:
            stored = threads.recalled(tx, session_id, stored)
        return found.dump() == stored.dump()
    except (IllegalRecord, KeyError, TypeError, ValueError):
        return False


def _sealed(connection: Connection, sealers: list[Sealer]) -> Iterator[Finding]:
    if not sealers:
        return
    wrong: list[str] = []
    count = 0
    for sealed in SEALED:
        for row_id, value in connection.execute(select(sealed.id, sealed.value)).all():
            name = sealed.name(row_id)
            count += 1
            if not any(opens(sealer, name, value) for sealer in sealers):
                wrong.append(name)
    if wrong and len(wrong) == count:
        yield Finding(
            f"{count} secrets are sealed by another master key than {fingerprint(sealers[0])}",
            f"put the right key back; if it is lost: {RUNBOOK}",
        )
    elif wrong:
        shown = ", ".join(wrong[:NAMED])
        yield Finding(f"{len(wrong)} of {count} secrets do not open: {shown}", _RESTORE)
    else:
        yield Finding(f"the master key {fingerprint(sealers[0])} opens all of {count} secrets")


def _files(connection: Connection, place: Place, tell: Tell, *, deep: bool) -> Iterator[Finding]:
    store = Blobs.open(place.blob_url, place.data_dir)
    held = blob_copies.held(Tx(connection))
    look = blob_copies.damaged if deep else blob_copies.absent
    try:
        wrong = look(store, list(held.values()), tell)
    except DomainError as error:
        yield Finding(f"files cannot be looked for: {error.message}", "check --blob-url")
        return
    kept_us = to_micros(SystemClock().now())
    for blob in sorted(wrong, key=lambda one: one.key)[:NAMED]:
        owners = connection.execute(
            select(blobs.c.owner_id, blobs.c.workspace_id, blobs.c.expires_us).where(
                blobs.c.key == blob.key, blobs.c.gone.is_(False)
            )
        ).all()
        if all(row.expires_us is not None and row.expires_us <= kept_us for row in owners):
            continue
        names = ", ".join(f"{row.owner_id} in {row.workspace_id}" for row in owners[:NAMED])
        yield Finding(
            f"the bytes of {names} are {'damaged or ' if deep else ''}lost: blob {blob.key}",
            "run `intramuros db restore --files-only BACKUP`, or delete it by the API",
        )
    if len(wrong) > NAMED:
        yield Finding(f"{len(wrong) - NAMED} more files are lost", f"see {RUNBOOK}")
    if not wrong:
        yield Finding(f"the bytes of {len(held)} files are there")


def _certificates(connection: Connection) -> Iterator[Finding]:
    """Authorities that tunnels trust; others lie where edges and gateways run (doctor)."""
    now_us = to_micros(SystemClock().now())
    rows = connection.execute(
        select(resources.c.id, resources.c.parent_id, resources.c.body).where(
            resources.c.kind == CERTIFICATE.name, resources.c.archived_us.is_(None)
        )
    ).all()
    for row in rows:
        expires_us = int(row.body["expires_us"])
        if expires_us <= now_us:
            yield Finding(
                f"certificate {row.id} of tunnel {row.parent_id} expired at"
                f" {rfc3339(from_micros(expires_us))}",
                "archive it and run `intramuros gateway init` for that tunnel: " + RUNBOOK,
            )
