"""SQLite alone: the file, its disk, its kills, and look-ups on the loop's own thread."""

import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from intramuros.control.store import tables
from intramuros.control.store.db import Database, Tx
from intramuros.kernel.errors import OperatorError, Unavailable

pytestmark = [pytest.mark.anyio, pytest.mark.sqlite]

T = tables.workspaces


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/i.db")
    with database.engine.begin() as connection:
        tables.metadata.create_all(connection)
    yield database
    database.close()


def add(name: str):
    def work(tx: Tx) -> str:
        tx.execute(T.insert().values(id=name, name=name, created_us=1))
        return name

    return work


def names(tx: Tx) -> list[str]:
    return list(tx.execute(select(T.c.id).order_by(T.c.id)).scalars())


async def test_keys_mean_nothing_where_every_writer_is_alone(database: Database) -> None:
    def work(tx: Tx) -> str:
        tx.take_turn()
        return threading.current_thread().name

    assert await database.write(work, ("k",)) == await database.write(work) == "db-writer"


async def test_a_few_rows_are_changed_here_when_nobody_else_writes(database: Database) -> None:
    here, elsewhere = threading.get_ident(), set[int]()
    await database.write(lambda tx: elsewhere.add(threading.get_ident()))
    started, gate = threading.Event(), threading.Event()

    def hold(tx: Tx) -> None:
        started.set()
        gate.wait(60)

    assert await database.jot(lambda tx: threading.get_ident()) == here
    async with anyio.create_task_group() as group:
        group.start_soon(database.write, hold)
        await anyio.to_thread.run_sync(started.wait)
        group.start_soon(_opened_soon, gate)
        assert {await database.jot(lambda tx: threading.get_ident())} == elsewhere
    assert await database.jot(lambda tx: threading.get_ident()) == here


async def _opened_soon(gate: threading.Event) -> None:
    await anyio.lowlevel.checkpoint()
    gate.set()


async def test_another_process_that_writes_does_not_stop_the_loop(database: Database) -> None:
    await database.write(add("a"))
    with database.engine.connect() as other:
        transaction = other.begin()
        other.execute(T.delete())
        async with anyio.create_task_group() as group:
            group.start_soon(database.jot, add("b"))
            await anyio.lowlevel.checkpoint()
            assert await database.read(names) == ["a"]
            transaction.commit()
    assert await database.write(add("c")) == "c"
    assert await database.read(names) == ["b", "c"]


@pytest.mark.parametrize("way", ["write", "jot"])
async def test_a_full_disk_refuses_the_write_and_the_store_goes_on(
    database: Database, way: str
) -> None:
    pages = await database.write(
        lambda tx: tx.connection.exec_driver_sql("PRAGMA page_count").scalar()
    )
    await database.write(
        lambda tx: tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar()
    )

    def large(tx: Tx) -> None:
        tx.execute(T.insert().values(id="big", name="x" * 100_000, created_us=1))

    with pytest.raises(Unavailable, match="nothing was changed"):
        await getattr(database, way)(large)
    await database.write(lambda tx: tx.connection.exec_driver_sql("PRAGMA max_page_count = 999999"))
    await database.write(add("a"))
    assert await database.read(names) == ["a"]


def test_a_directory_that_is_missing_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot open the database"):
        Database.open(f"sqlite:///{tmp_path}/missing/i.db")


def test_a_file_that_is_no_database_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "i.db"
    path.write_bytes(b"no database at all, but long enough to look at" * 50)
    with pytest.raises(OperatorError, match="not a database"):
        Database.open(f"sqlite:///{path}")


CHILD = """
import anyio, sys
from intramuros.control.store import tables
from intramuros.control.store.db import Database
from tests.engines import database_url

async def main():
    database = Database.open(sys.argv[1])
    with database.engine.begin() as connection:
        tables.metadata.create_all(connection)

    async def writer(w):
        for n in range(10_000):
            name = f"{w}-{n}"
            await (database.write if w % 2 else database.jot)(lambda tx: tx.execute(
                tables.workspaces.insert().values(id=name, name="n", created_us=1)).rowcount)
            print(name, flush=True)

    async with anyio.create_task_group() as group:
        for w in range(4):
            group.start_soon(writer, w)

anyio.run(main)
"""


def test_what_was_acknowledged_survives_kill_minus_9(tmp_path: Path) -> None:
    path = tmp_path / "i.db"
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), f"sqlite:///{path}"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": "src"},
    )
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(100)]
    child.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
    child.wait()
    child.stdout.close()
    with sqlite3.connect(path) as connection:
        kept = {row[0] for row in connection.execute("SELECT id FROM workspaces")}
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert set(acknowledged) <= kept


async def test_a_glance_is_a_read_on_the_loops_own_thread(database: Database) -> None:
    def where(tx: Tx) -> tuple[int, int]:
        return threading.get_ident(), tx.scalar(text("SELECT 41 + 1"))

    assert await database.glance(where) == (threading.get_ident(), 42)
    assert (await database.read(where))[0] != threading.get_ident()


async def test_a_glance_that_meets_a_lock_goes_to_a_thread(database: Database) -> None:
    tried: list[int] = []

    def locked_once(tx: Tx) -> int:
        tried.append(threading.get_ident())
        if len(tried) == 1:
            raise OperationalError("SELECT", {}, Exception("database is locked"))
        return 7

    assert await database.glance(locked_once) == 7
    assert [ident == threading.get_ident() for ident in tried] == [True, False]


@pytest.mark.parametrize("way", ["write", "jot"])
@pytest.mark.parametrize("by", ["driver", "sqlalchemy"])
async def test_a_commit_that_is_refused_leaves_nothing_to_the_next(
    database: Database, way: str, by: str
) -> None:
    """SQLite keeps a transaction open whose COMMIT it refuses; here for a missing row."""
    await database.write(add("a"))

    def work(tx: Tx) -> None:
        run = tx.connection.connection.dbapi_connection.execute  # type: ignore[union-attr]
        if by == "sqlalchemy":
            tx.scalar(select(T.c.id))
        run("PRAGMA defer_foreign_keys = ON")
        run("INSERT INTO workspaces (id, name, created_us) VALUES ('b', 'b', 1)")
        run("INSERT INTO user_workspaces VALUES ('none', 'none', 'r', 1)")

    with pytest.raises(Unavailable, match="nothing was changed"):
        await getattr(database, way)(work)
    assert await getattr(database, way)(add("c")) == "c"
    assert await database.read(names) == ["a", "c"]
