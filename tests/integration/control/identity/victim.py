"""A rotation of the master key that kills itself: ``python -m … DATA_DIR STAGE``."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from intramuros.control.identity import rotation
from intramuros.control.store import rekey
from intramuros.control.store.db import Database
from intramuros.control.store.rekey import KeyFiles


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around(
    work: Callable[..., Any], *, before: bool = False, after: bool = False
) -> Callable[..., Any]:
    def wrapped(*args: Any, **named: Any) -> Any:
        if before:
            die()
        result = work(*args, **named)
        if after:
            die()
        return result

    return wrapped


STAGES: dict[str, Callable[[], None]] = {
    "before the successor": lambda: setattr(
        KeyFiles, "make_successor", around(KeyFiles.make_successor, before=True)
    ),
    "before the transaction": lambda: setattr(
        Database, "write", around(Database.write, before=True)
    ),
    "inside the transaction": lambda: setattr(rekey, "reseal", around(rekey.reseal, after=True)),
    "after the commit": lambda: setattr(KeyFiles, "promote", around(KeyFiles.promote, before=True)),
    "after the rename": lambda: setattr(KeyFiles, "promote", around(KeyFiles.promote, after=True)),
}

if __name__ == "__main__":
    STAGES[sys.argv[2]]()
    anyio.run(rotation.rotate_master_key, Path(sys.argv[1]))
