"""An installation: its directory, its database at the newest schema, its first key."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from intramuros.control.identity import bootstrap
from intramuros.control.identity.actor import Actor
from intramuros.control.store import rekey
from intramuros.control.store.db import Database
from intramuros.control.store.drivers import STATEMENT_S
from intramuros.control.store.migrate import upgrade
from intramuros.control.store.patience import open_when_up
from intramuros.control.store.rekey import KeyFiles
from intramuros.control.store.secrets import Sealer, read_secret_file, write_secret_file
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.steady import SteadyClock
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, SystemClock

log = logger("server")

_API_KEY_FILE: Final = "api-key"
MASTER_KEY_FILE: Final = "master-key"
DATABASE_FILE: Final = "intramuros.db"
# Added to the database's name: what a restore has not put in its place yet.
RESTORING_SUFFIX: Final = ".restoring"
_FIRST_KEY_PREFIX: Final = "sk-intramuros-api01-"


@dataclass(frozen=True)
class Store:
    """An open database and the key that seals what is secret in it.

    ``finished`` tells that a rotation of the key was broken off and has been ended now.
    """

    db: Database
    files: KeyFiles
    sealer: Sealer
    finished: bool

    def close(self) -> None:
        """Finish what is being written and release the files."""
        self.db.close()
        self.files.release()


@dataclass(frozen=True)
class Installation:
    """An open installation: what both the server and the operator's commands need."""

    db: Database
    clock: Clock
    ids: IdFactory
    sealer: Sealer
    organization_id: str
    workspace_id: str
    store: Store

    def close(self) -> None:
        """Finish what is being written and release the files."""
        self.store.close()

    def operator(self, by: str) -> Actor:
        """Return the operator as an actor; ``by`` names the command."""
        return Actor(self.clock, self.ids, self.workspace_id, by)


async def open_installation(
    data_dir: Path,
    database_url: str | None = None,
    bootstrap_api_key: str | None = None,
    *,
    wait_s: float = 0.0,
    statement_s: float = STATEMENT_S,
    replicas: Sequence[str] = (),
) -> Installation:
    """Open, migrate and bootstrap what a data directory holds; safe to repeat.

    Args:
        data_dir: made when absent (mode 0700).
        database_url: a file in the data directory when None.
        bootstrap_api_key: the operator's first API key; made into a file when None.
        wait_s: seconds to wait for a database that is not up yet.
        statement_s: seconds that a statement may take on PostgreSQL; 0 for as long as it takes.
        replicas: URLs of read replicas on PostgreSQL.

    Raises:
        OperatorError: the directory, the database or a key in it is unusable.
    """
    _make_directory(data_dir)
    clock = SteadyClock(SystemClock())
    ids = IdFactory(clock, os.urandom)
    store = await open_store(
        data_dir, database_url, wait_s=wait_s, statement_s=statement_s, replicas=replicas
    )
    db = store.db
    try:
        names = await db.write(lambda tx: bootstrap.ensure_workspace(tx, clock, ids))
        opened = Installation(
            db, clock, ids, store.sealer, names.organization_id, names.workspace_id, store
        )
        await _ensure_first_key(opened, data_dir / _API_KEY_FILE, bootstrap_api_key)
    except BaseException:
        store.close()
        raise
    return opened


async def open_store(
    data_dir: Path,
    database_url: str | None,
    *,
    alone: bool = False,
    wait_s: float = 0.0,
    statement_s: float = STATEMENT_S,
    replicas: Sequence[str] = (),
) -> Store:
    """Open and migrate the database of a data directory, and find the key it is sealed by.

    Args:
        alone: only if no other process uses the key.
        wait_s: seconds to wait for a database that is not up yet.
        statement_s: seconds that a statement may take on PostgreSQL; 0 for as long as it takes.
        replicas: URLs of read replicas on PostgreSQL.

    Raises:
        OperatorError: the database or the key is unusable.
    """
    _check_restored(data_dir)
    files = KeyFiles(data_dir / MASTER_KEY_FILE, alone=alone)
    try:
        current, successor = files.current(), files.successor()
        url = database_url or f"sqlite:///{_private(data_dir / DATABASE_FILE)}"
        db = await open_when_up(
            url,
            wait_s,
            lambda db: upgrade(db.engine),
            statement_s=statement_s,
            replicas=replicas,
        )
    except BaseException:
        files.release()
        raise
    try:
        sealer = await db.read(lambda tx: rekey.in_force(tx, current, successor))
        if sealer is successor:
            files.promote()
    except BaseException:
        db.close()
        files.release()
        raise
    return Store(db, files, sealer, finished=sealer is successor)


def _check_restored(data_dir: Path) -> None:
    staged = data_dir / f"{DATABASE_FILE}{RESTORING_SUFFIX}"
    if staged.exists():
        raise OperatorError(
            f"a restore into {data_dir} is under way or was broken off ({staged.name} is there)",
            "run `intramuros db restore` again, or remove that file if you want none of it",
        )


async def _ensure_first_key(opened: Installation, path: Path, chosen: str | None) -> None:
    """Make sure that somebody can call the API: the operator's key, or one of our own in a file."""
    secret = chosen or read_secret_file(path)
    if secret is None:
        if await opened.db.read(bootstrap.has_key):
            return
        # The file comes first: a key that nobody was told of would help nobody.
        write_secret_file(path, _FIRST_KEY_PREFIX + opened.ids.random(24).hex())
        secret = read_secret_file(path)
        log.info("api_key_written", file=str(path))
    key = secret or ""
    actor = opened.operator(bootstrap.BOOTSTRAP)
    await opened.db.write(lambda tx: bootstrap.ensure_key(tx, actor, key))


def _make_directory(data_dir: Path) -> None:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(
            f"cannot make the data directory {data_dir} ({error.strerror})",
            "choose another --data-dir or fix its owner",
        ) from error


def _private(path: Path) -> Path:
    """Return the path of a file that only its owner reads, made empty now if it is absent.

    SQLite gives its side files the same mode.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise OperatorError(
            f"cannot open {path} ({error.strerror})", "check the directory's owner and free space"
        ) from error
    return path
