"""A session over a database file, for tests that write its log from many sides.

Run as a program it appends for ever and prints each position once it is durable.
"""

import os
import sys
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import Row, insert, select

from intramuros.control.store import events
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.records import Draft, Record
from intramuros.control.store.tables import metadata, sessions, workspaces
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import SystemClock
from tests.engines import database_url
from tests.fakes.world import World

WORKSPACE = "wrkspc_test"


class Log:
    """Many writers of one session share this; each write is a transaction of its own."""

    def __init__(self, db: Database, world: World, session_id: str) -> None:
        self.db = db
        self._world = world
        self.session_id = session_id

    @classmethod
    async def create(cls, path: Path | str) -> "Log":
        db = Database.open(database_url(path))
        with db.engine.begin() as connection:
            metadata.create_all(connection)
            connection.execute(insert(workspaces).values(id=WORKSPACE, name="T", created_us=1))

        def work(tx: Tx) -> tuple[World, str]:
            clock = SystemClock()
            world = World(tx, clock, IdFactory(clock, os.urandom), WORKSPACE, db)
            return world, world.create()

        return cls(db, *await db.write(work))

    async def append(self, *drafts: Draft) -> list[Record]:
        """Append as the API does, under the session's row."""
        journal = self._world.journal
        return await self.db.write(
            lambda tx: journal.append(tx, journal.hold(tx, self.session_id), drafts)
        )


def read(db: Database, session_id: str) -> list[Record]:
    with db.engine.connect() as connection, connection.begin():
        return events.read(Tx(connection), session_id)


def row(db: Database, session_id: str) -> Row[Any]:
    with db.engine.connect() as connection, connection.begin():
        return connection.execute(select(sessions).where(sessions.c.id == session_id)).one()


async def main(path: str, writers: int) -> None:
    log = await Log.create(path)
    sys.stdout.write(f"{log.session_id}\n")
    sys.stdout.flush()

    async def write_for_ever() -> None:
        while True:
            written = await log.append(
                Draft("session.updated", {"title": "x" * 200}), Draft("session.updated", {})
            )
            sys.stdout.write("".join(f"{r.seq} {r.id}\n" for r in written))
            sys.stdout.flush()

    async with anyio.create_task_group() as group:
        for _ in range(writers):
            group.start_soon(write_for_ever)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
