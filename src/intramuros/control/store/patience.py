"""Opens a database that may not be up yet, as after the machine has started.

A PostgreSQL that is starting, recovering from a crash, shutting down, full, or not there yet will
answer a little later, and so will one that another server is migrating; one that refuses us for who
we are will not.
"""

import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

import anyio
import anyio.to_thread

from intramuros.control.store.db import Database
from intramuros.control.store.drivers import STATEMENT_S, DatabaseAway
from intramuros.kernel.errors import OperatorError, Unavailable
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import backoff_s

log = logger("store")

# Between two attempts: the first ceiling and the last, in seconds.
BASE_S: Final = 0.25
CAP_S: Final = 5.0


async def open_when_up(
    url: str,
    wait_s: float,
    prepare: Callable[[Database], None],
    rand: Callable[[], float] = random.random,
    *,
    statement_s: float = STATEMENT_S,
    replicas: Sequence[str] = (),
) -> Database:
    """Open a database and prepare it, waiting for one that is not up yet.

    Args:
        url: as for :meth:`Database.open`.
        wait_s: seconds to wait for it; 0 tries once.
        prepare: what is done with it before anything else, on another thread; perhaps again.
        statement_s: as for :meth:`Database.open`.
        replicas: as for :meth:`Database.open`.

    Raises:
        OperatorError: it cannot be opened, or was not up in time.
    """
    began = anyio.current_time()
    for attempt in count():
        try:
            return await _once(url, prepare, statement_s, replicas)
        except DatabaseAway as away:
            left_s = wait_s - (anyio.current_time() - began)
            if left_s <= 0:
                if not wait_s:
                    raise
                raise OperatorError(
                    f"{away.problem}, for {wait_s:g} s",
                    f"start it, or {away.fix}, or raise --database-wait-s",
                ) from away
            pause_s = min(backoff_s(attempt, BASE_S, CAP_S, rand()), left_s)
            log.warning("database_awaited", why=away.problem, left_s=round(left_s, 1))
            await anyio.sleep(pause_s)
    raise AssertionError("counting never ends")


async def _once(
    url: str, prepare: Callable[[Database], None], statement_s: float, replicas: Sequence[str]
) -> Database:
    db = Database.open(url, statement_s=statement_s, replicas=replicas)
    try:
        await anyio.to_thread.run_sync(prepare, db)
    except BaseException as error:
        db.close()
        if isinstance(db.backend.verdict(error), Unavailable):
            raise DatabaseAway("the database went away", "look at its log") from error
        if db.backend.passing(error):
            raise DatabaseAway("another server has the database", "let it end") from error
        raise
    return db
