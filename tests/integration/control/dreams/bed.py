"""Dreams over a real database file and a real blob store; only the model is played."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import insert, select

from intramuros.control.dreams import rows
from intramuros.control.dreams.acts import Acts
from intramuros.control.dreams.closing import Closing
from intramuros.control.dreams.plan import Dream, Limits
from intramuros.control.dreams.worker import Worker
from intramuros.control.store import tables
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Database, Tx
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, to_micros
from tests.engines import database_url
from tests.fakes.dreams import Night, statement
from tests.fakes.world import World

T = TypeVar("T")
WORKSPACE = "wrkspc_test"
WRITE = ("write_memory", {"path": "/new.md", "statements": [statement("So.", "/notes.md")]})
DROP = ("delete_memory", {"path": "/stale.md", "reason": "stale"})


class Killed(BaseException):
    """The process is gone; nothing of ours may catch it."""


class Fuse:
    """A database whose process dies at its n-th write, before it or just behind its commit."""

    def __init__(self, db: Database, at: int, *, behind: bool) -> None:
        self._db, self._left, self._behind = db, at, behind
        self.read = db.read

    async def write(self, work: Callable[[Tx], T]) -> T:
        self._left -= 1
        if self._left == 0 and not self._behind:
            raise Killed
        done = await self._db.write(work)
        if self._left == 0:
            raise Killed
        return done


class Bed:
    """A workspace, a store, something that was said, and a dream of it."""

    def __init__(self, directory: Path, limits: Limits | None = None) -> None:
        self.clock = ManualClock()
        self.ids = IdFactory(self.clock, random.Random(7).randbytes)
        self.db = Database.open(database_url(directory / "dreams.db"))
        tables.metadata.create_all(self.db.engine)
        self.blobs = Blobs.open(None, directory)
        self.limits = limits or Limits()

    async def make(self, **more: Any) -> Dream:
        def work(tx: Tx) -> Dream:
            now_us = to_micros(self.clock.now())
            tx.execute(insert(tables.workspaces).values(id=WORKSPACE, name="W", created_us=now_us))
            self.night = Night(World(tx, self.clock, self.ids, WORKSPACE), self.limits)
            store = self.night.store(notes="a", stale="b", same="c")
            return self.night.begin(store, self.night.talk("hello"), **more)

        return await self.db.write(work)

    def worker(self, db: Any = None, blobs: Any = None) -> Worker:
        """Return a worker as a new process would have it."""
        used = db or self.db
        acts = Acts(self.night.stage, self.limits)
        return Worker(used, acts, Closing(used, blobs or self.blobs, acts, 10**9), "test")

    async def within(self, work: Callable[[Night], T]) -> T:
        """Do something in a transaction of its own."""

        def inside(tx: Tx) -> T:
            self.night.tx = self.night.world.tx = tx
            return work(self.night)

        return await self.db.write(inside)

    async def play(self, dream: Dream) -> None:
        """Let the model answer if its turn has come: two calls first, then the end."""

        def work(night: Night) -> None:
            state = rows.states(night.tx, [dream.session_id]).get(dream.session_id)
            if state is not None and state.due:
                night.say(dream, *([] if state.rounds or state.turn else [WRITE, DROP]))

        await self.within(work)

    async def run(self, dream: Dream, worker: Worker | None = None) -> Dream:
        """Work and play until nothing is left to do."""
        worker = worker or self.worker()
        for _ in range(60):
            while await worker.work_once():
                pass
            now = await self.within(lambda night: night.now(dream))
            if now.stopped_us is not None:
                return now
            await self.play(dream)
            self.clock.advance(3)
        raise AssertionError(f"the dream does not end: {now}")

    async def files(self) -> list[Any]:
        found = select(tables.resources).where(tables.resources.c.kind == "file")
        return await self.db.read(lambda tx: list(tx.execute(found).all()))

    async def changes(self, store_id: str | None) -> list[str]:
        """Return every change that a store has seen, by path."""
        table = tables.memory_versions.c
        found = select(table.operation, table.path).where(table.store_id == store_id)
        rows = await self.db.read(lambda tx: list(tx.execute(found).all()))
        return sorted(f"{row.operation} {row.path}" for row in rows)

    async def count(self, table: Any, **where: Any) -> int:
        wanted = select(table).where(*(table.c[name] == value for name, value in where.items()))
        return await self.db.read(lambda tx: len(tx.execute(wanted).all()))
