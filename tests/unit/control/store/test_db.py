"""Transactions on SQLite: durable before acknowledged, grouped, isolated, and closed cleanly."""

import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import anyio
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from intramuros.control.store import tables
from intramuros.control.store.db import Database, Tx
from intramuros.kernel.errors import OperatorError, Unavailable

pytestmark = pytest.mark.anyio

T = tables.workspaces
WHO: ContextVar[str] = ContextVar("who", default="nobody")


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


async def test_a_write_is_read_back(database: Database) -> None:
    assert await database.write(add("a")) == "a"
    assert await database.read(names) == ["a"]


async def test_a_failing_transaction_changes_nothing_and_raises_what_was_raised(
    database: Database,
) -> None:
    def work(tx: Tx) -> None:
        add("a")(tx)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await database.write(work)
    assert await database.read(names) == []


async def test_transactions_that_share_a_commit_fail_apart(database: Database) -> None:
    gate = threading.Event()
    outcomes: dict[str, object] = {}

    def hold(tx: Tx) -> None:
        gate.wait(5)

    async def attempt(key: str, name: str) -> None:
        try:
            outcomes[key] = await database.write(add(name))
        except IntegrityError as error:
            outcomes[key] = type(error)

    async with anyio.create_task_group() as group:
        group.start_soon(database.write, hold)
        await anyio.lowlevel.checkpoint()
        for key, name in (("1", "a"), ("2", "a"), ("3", "b")):
            group.start_soon(attempt, key, name)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert outcomes == {"1": "a", "2": IntegrityError, "3": "b"}
    assert await database.read(names) == ["a", "b"]


async def test_hooks_run_on_the_loop_after_the_commit_and_only_then(database: Database) -> None:
    seen: list[tuple[int, list[str]]] = []
    here = threading.get_ident()

    def ok(tx: Tx) -> None:
        add("a")(tx)
        tx.after_commit(lambda: seen.append((threading.get_ident(), _names_elsewhere(database))))

    def bad(tx: Tx) -> None:
        tx.after_commit(lambda: seen.append((0, [])))
        raise LookupError

    await database.write(ok)
    with pytest.raises(LookupError):
        await database.write(bad)
    assert seen == [(here, ["a"])]


def _names_elsewhere(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.execute(select(T.c.id)).scalars())


async def test_work_runs_in_the_context_of_whoever_asked(database: Database) -> None:
    seen: list[tuple[str, str]] = []

    async def ask(name: str) -> None:
        WHO.set(name)
        for _ in range(20):
            seen.append((name, await database.write(lambda tx: WHO.get())))
            seen.append((name, await database.read(lambda tx: WHO.get())))

    async with anyio.create_task_group() as group:
        for name in ("a", "b", "c"):
            group.start_soon(ask, name)
    assert len(seen) == 120
    assert all(asked == found for asked, found in seen)
    assert await database.write(lambda tx: WHO.get()) == "nobody"


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(OperationalError):
        await database.read(add("a"))


async def test_a_read_sees_one_snapshot_while_others_write(database: Database) -> None:
    started, go = threading.Event(), threading.Event()
    counts: list[int | None] = []

    def slow(tx: Tx) -> None:
        counts.append(tx.scalar(select(func.count()).select_from(T)))
        started.set()
        go.wait(5)
        counts.append(tx.scalar(select(func.count()).select_from(T)))

    async with anyio.create_task_group() as group:
        group.start_soon(database.read, slow)
        await anyio.to_thread.run_sync(started.wait)
        await database.write(add("a"))
        go.set()
    assert counts == [0, 0]


async def test_a_cancelled_caller_does_not_lose_the_transaction(database: Database) -> None:
    gate = threading.Event()

    def work(tx: Tx) -> None:
        gate.wait(5)
        add("a")(tx)

    async with anyio.create_task_group() as group:
        group.start_soon(database.write, work)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
        gate.set()
    assert await database.read(names) == ["a"]


async def test_a_full_disk_refuses_the_write_and_the_store_goes_on(database: Database) -> None:
    pages = await database.write(
        lambda tx: tx.connection.exec_driver_sql("PRAGMA page_count").scalar()
    )
    await database.write(
        lambda tx: tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar()
    )

    def large(tx: Tx) -> None:
        tx.execute(T.insert().values(id="big", name="x" * 100_000, created_us=1))

    with pytest.raises(Unavailable, match="nothing was changed"):
        await database.write(large)
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


def test_another_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="sqlite:///PATH"):
        Database.open("mysql://elsewhere")


CHILD = """
import anyio, sys
from intramuros.control.store import tables
from intramuros.control.store.db import Database

async def main():
    database = Database.open(sys.argv[1])
    with database.engine.begin() as connection:
        tables.metadata.create_all(connection)

    async def writer(w):
        for n in range(10_000):
            name = f"{w}-{n}"
            await database.write(lambda tx: tx.execute(
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


async def test_a_glance_sees_what_was_acknowledged_just_before(database: Database) -> None:
    for number in range(20):
        await database.write(add(str(number)))
        seen = await database.glance(lambda tx: tx.scalar(select(func.count()).select_from(T)))
        assert seen == number + 1


async def test_a_glance_cannot_write_and_what_it_raises_is_raised(database: Database) -> None:
    with pytest.raises(OperationalError):
        await database.glance(add("x"))
    with pytest.raises(ZeroDivisionError):
        await database.glance(lambda _: 1 // 0)
    assert await database.glance(lambda tx: tx.scalar(text("SELECT 1"))) == 1


async def test_a_glance_that_meets_a_lock_goes_to_a_thread(database: Database) -> None:
    tried: list[int] = []

    def locked_once(tx: Tx) -> int:
        tried.append(threading.get_ident())
        if len(tried) == 1:
            raise OperationalError("SELECT", {}, Exception("database is locked"))
        return 7

    assert await database.glance(locked_once) == 7
    assert [ident == threading.get_ident() for ident in tried] == [True, False]


async def test_readers_go_on_after_a_failure_of_the_database(database: Database) -> None:
    for _ in range(9):
        with pytest.raises(OperationalError):
            await database.read(lambda tx: tx.execute(text("SELECT * FROM nowhere")))
    assert await database.read(lambda tx: tx.scalar(text("SELECT 1"))) == 1
