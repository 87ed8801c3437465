"""Transactions on SQLite: durable before acknowledged, grouped, isolated, and closed cleanly."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from intramuros.control.store import tables
from intramuros.control.store.db import Database, Tx
from intramuros.kernel.errors import OperatorError
from tests.engines import database_url

pytestmark = pytest.mark.anyio

T = tables.workspaces
Change = Callable[[Callable[[Tx], Any]], Awaitable[Any]]
WHO: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(database_url(tmp_path / "i.db"))
    with database.engine.begin() as connection:
        tables.metadata.create_all(connection)
    yield database
    database.close()


@pytest.fixture(params=["write", "jot"])
def change(request: pytest.FixtureRequest, database: Database) -> Change:
    """Either way to change something."""
    found: Change = getattr(database, request.param)
    return found


def add(name: str):
    def work(tx: Tx) -> str:
        tx.execute(T.insert().values(id=name, name=name, created_us=1))
        return name

    return work


def names(tx: Tx) -> list[str]:
    return list(tx.execute(select(T.c.id).order_by(T.c.id)).scalars())


async def test_a_write_is_read_back(database: Database, change: Change) -> None:
    assert await change(add("a")) == "a"
    assert await database.read(names) == ["a"]


async def test_a_failing_transaction_changes_nothing_and_raises_what_was_raised(
    database: Database, change: Change
) -> None:
    def work(tx: Tx) -> None:
        add("a")(tx)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await change(work)
    assert await database.read(names) == []
    assert await change(add("b")) == "b"
    assert await database.read(names) == ["b"]


async def test_transactions_that_share_a_commit_fail_apart(database: Database) -> None:
    gate = threading.Event()
    outcomes: dict[str, object] = {}

    def hold(tx: Tx) -> None:
        gate.wait(60)

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


async def test_hooks_run_on_the_loop_after_the_commit_and_only_then(
    database: Database, change: Change
) -> None:
    seen: list[tuple[int, list[str]]] = []
    here = threading.get_ident()

    def ok(tx: Tx) -> None:
        add("a")(tx)
        tx.after_commit(lambda: seen.append((threading.get_ident(), _names_elsewhere(database))))

    def bad(tx: Tx) -> None:
        tx.after_commit(lambda: seen.append((0, [])))
        raise LookupError

    await change(ok)
    with pytest.raises(LookupError):
        await change(bad)
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
            seen.append((name, await database.jot(lambda tx: WHO.get())))
            seen.append((name, await database.read(lambda tx: WHO.get())))

    async with anyio.create_task_group() as group:
        for name in ("a", "b", "c"):
            group.start_soon(ask, name)
    assert len(seen) == 180
    assert all(asked == found for asked, found in seen)
    assert await database.write(lambda tx: WHO.get()) == "nobody"


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(DBAPIError):
        await database.read(add("a"))


async def test_a_read_sees_one_snapshot_while_others_write(database: Database) -> None:
    started, go = threading.Event(), threading.Event()
    counts: list[int | None] = []

    def slow(tx: Tx) -> None:
        counts.append(tx.scalar(select(func.count()).select_from(T)))
        started.set()
        go.wait(60)
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
        gate.wait(60)
        add("a")(tx)

    async with anyio.create_task_group() as group:
        group.start_soon(database.write, work)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
        gate.set()
    assert await database.read(names) == ["a"]


async def test_everybody_s_changes_are_made_once(database: Database) -> None:
    """Tasks of this loop and of another thread's, each way, all at the same time."""

    async def ask(who: str, way: Change) -> None:
        for number in range(25):
            name = f"{who}-{number}"
            if number % 5:
                assert await way(add(name)) == name
                continue
            with pytest.raises(IntegrityError):
                await way(lambda tx, name=name: (add(name)(tx), add(name)(tx)))

    async def both(who: str) -> None:
        async with anyio.create_task_group() as group:
            for task in range(3):
                group.start_soon(ask, f"{who}-w{task}", database.write)
                group.start_soon(ask, f"{who}-j{task}", database.jot)

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, lambda: anyio.run(both, "there"))
        group.start_soon(both, "here")
    kept = await database.read(names)
    assert len(kept) == len(set(kept)) == 2 * 6 * 20


def test_another_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="sqlite:///PATH"):
        Database.open("mysql://elsewhere")


async def test_a_glance_sees_what_was_acknowledged_just_before(database: Database) -> None:
    for number in range(20):
        await database.write(add(str(number)))
        seen = await database.glance(lambda tx: tx.scalar(select(func.count()).select_from(T)))
        assert seen == number + 1


async def test_a_glance_cannot_write_and_what_it_raises_is_raised(database: Database) -> None:
    with pytest.raises(DBAPIError):
        await database.glance(add("x"))
    with pytest.raises(ZeroDivisionError):
        await database.glance(lambda _: 1 // 0)
    assert await database.glance(lambda tx: tx.scalar(text("SELECT 1"))) == 1


async def test_readers_go_on_after_a_failure_of_the_database(database: Database) -> None:
    for _ in range(9):
        with pytest.raises(DBAPIError):
            await database.read(lambda tx: tx.execute(text("SELECT * FROM nowhere")))
    assert await database.read(lambda tx: tx.scalar(text("SELECT 1"))) == 1
