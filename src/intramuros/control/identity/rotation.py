"""Replaces the master key of an installation that no server is using."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from intramuros.control.identity import audit
from intramuros.control.identity.installation import DATABASE_FILE, open_store
from intramuros.control.store import rekey
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock

BY: Final = "intramuros db rotate-key"


@dataclass(frozen=True)
class Rotation:
    """What was done; ``finished`` tells that it was the rest of a rotation that was broken off."""

    resealed: int
    finished: bool


async def rotate_master_key(data_dir: Path, database_url: str | None = None) -> Rotation:
    """Seal everything by a new master key and throw the old one away.

    Killed at any point, it leaves an installation that opens, and a second run ends what the first
    began: before the commit by doing it again with the same successor, after it by the rename.

    Raises:
        OperatorError: a server is running, or the installation is unusable.
    """
    if database_url is None:
        _require(data_dir / DATABASE_FILE)
    store = await open_store(data_dir, database_url, alone=True, statement_s=0)
    try:
        if store.finished:
            return Rotation(0, finished=True)
        successor = store.files.make_successor()

        def work(tx: Tx) -> int:
            audit.record(
                tx, SystemClock(), "master_key.rotate", workspace_id=None, fields={"by": BY}
            )
            return rekey.reseal(tx, store.sealer, successor)

        resealed = await store.db.write(work)
        store.files.promote()
    finally:
        store.close()
    return Rotation(resealed, finished=False)


def _require(database: Path) -> None:
    if not database.exists():
        raise OperatorError(f"there is no database {database}", "name the server's --data-dir")
