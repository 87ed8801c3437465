"""A scheduler as a process of its own: ``python -m tests.e2e.scheduler_process DIR CLOCK TRAP``.

Its time stands in a file that the test writes. It may be told to kill itself, as ``kill -9`` does,
at the first point of a kind that it comes to.
"""

import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio

from intramuros.control.deployment import runs, scheduler
from intramuros.control.deployment.runs import Runs
from intramuros.control.deployment.scheduler import Scheduler
from intramuros.control.identity.installation import Installation, open_installation
from intramuros.control.session.journal import Journal
from intramuros.control.session.sessions import Sessions, Stock
from intramuros.control.session.work import WorkQueue
from intramuros.control.store.notify import Hub
from intramuros.control.store.repository_tokens import Tokens
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import run_service
from intramuros.kernel.timing import SystemClock

POLL_S = 0.05


class FileClock(SystemClock):
    """Shows the time that stands in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def now(self) -> datetime:
        """Return the time that the test set last."""
        return datetime.fromisoformat(self._path.read_text())

    def set(self, at: datetime) -> None:
        """Set the time of every process; none reads half of it."""
        new = self._path.with_suffix(".new")
        new.write_text(at.isoformat())
        new.replace(self._path)


def starter(opened: Installation, clock: FileClock) -> Runs:
    """Return what starts runs over an installation, under another clock."""
    hub, ids = Hub(), IdFactory(clock, os.urandom)
    work = WorkQueue(opened.db, hub, clock, ids)
    journal = Journal(clock, ids, hub, work)
    stock = Stock(Tokens(opened.sealer, ids.random))
    sessions = Sessions(clock, ids, hub, journal, work, stock)
    # These deployments have no rubrics to be read.
    return Runs(clock, ids, sessions, journal, die)


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(function: Callable[..., Any]) -> Callable[..., Any]:
    def then_die(*args: Any, **more: Any) -> Any:
        function(*args, **more)
        die()

    return then_die


TRAPS: dict[str, Callable[[], None]] = {
    # The claim is durable, nothing else is.
    "claimed": lambda: setattr(Scheduler, "_fire", die),
    # The session is written, the run is not, and nothing is durable.
    "writing": lambda: setattr(runs.audit, "record", die),
    # Everything is written, nothing is durable.
    "written": lambda: setattr(Scheduler, "_act", after(Scheduler._act)),
    "nowhere": lambda: None,
}


async def serve(data_dir: Path, clock_file: Path, trap: str) -> None:
    opened = await open_installation(data_dir)
    TRAPS[trap]()
    scheduler.POLL_S = POLL_S  # type: ignore[misc]  a clock that jumps wants a closer look
    starts = starter(opened, FileClock(clock_file))
    one = Scheduler(opened.db, starts, f"process {os.getpid()}")
    try:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await run_service({"schedules": one.run}, drain_s=5)
    finally:
        opened.close()


if __name__ == "__main__":
    anyio.run(serve, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
