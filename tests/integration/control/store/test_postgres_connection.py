"""What waits on a connection is run in order, once, and never forgotten or committed by halves."""

from collections.abc import Iterator
from typing import Any

import anyio
import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import create_engine, insert, make_url, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.pool import NullPool

from intramuros.control.store.db import Database, Tx
from intramuros.control.store.postgres_connection import Talk
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import Unavailable

W = workspaces
ADD = Prepared(insert(W))
NAMES = Prepared(select(W.c.name).order_by(W.c.name))


@pytest.fixture
def talk(url: str) -> Iterator[Talk]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with Talk.connect(plain, autocommit=True) as connection:
        assert isinstance(connection, Talk)
        connection.execute("CREATE TABLE log (n bigint PRIMARY KEY, what text)")
        yield connection
        if connection.closed:
            return
        connection.rollback()
        connection.execute("DROP TABLE log")


def add(talk: Talk, n: int, what: str = "") -> None:
    talk.later("INSERT INTO log VALUES (%(n)s, %(what)s)", {"n": n, "what": what})


def rows(talk: Talk) -> list[int]:
    return [n for (n,) in talk.execute("SELECT n FROM log ORDER BY n").fetchall()]


def test_what_waits_is_run_before_what_is_asked(talk: Talk) -> None:
    add(talk, 1)
    add(talk, 2)
    count = talk.later("SELECT count(*) FROM log")
    add(talk, 3)
    assert talk.info.transaction_status is TransactionStatus.IDLE
    assert count.result() == ([(2,)], 1)
    assert rows(talk) == [1, 2, 3]
    assert count.result() == ([(2,)], 1)  # once, whoever asks again


def test_a_cursor_of_any_kind_says_first_what_waits(talk: Talk) -> None:
    add(talk, 1)
    assert talk.cursor().execute("SELECT count(*) FROM log").fetchone() == (1,)
    add(talk, 2)
    talk.cursor().executemany("DELETE FROM log WHERE n = %s", [(1,), (2,)])
    assert rows(talk) == []
    add(talk, 3)
    with talk.cursor().copy("COPY log (n) TO STDOUT") as copied:
        assert b"".join(copied) == b"3\n"
    add(talk, 4)
    assert list(talk.cursor().stream("SELECT n FROM log ORDER BY n")) == [(3,), (4,)]


def test_the_first_that_failed_is_told_and_nothing_behind_it_is_run(talk: Talk) -> None:
    talk.later("BEGIN")
    add(talk, 1)
    add(talk, 1, "hunter2")
    talk.later("UPDATE log SET what = 'changed'")
    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        talk.settle()
    assert getattr(raised.value, "sql", "").startswith("INSERT")
    assert "hunter2" not in str(raised.value)
    assert talk.info.transaction_status is TransactionStatus.INERROR
    talk.rollback()
    assert rows(talk) == []


def test_a_commit_takes_along_what_waits(talk: Talk) -> None:
    talk.later("BEGIN")
    add(talk, 1)
    talk.commit()
    assert talk.info.transaction_status is TransactionStatus.IDLE
    assert rows(talk) == [1]


def test_a_commit_behind_a_failure_is_none(talk: Talk) -> None:
    talk.later("BEGIN")
    add(talk, 1)
    add(talk, 1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        talk.commit()
    talk.rollback()
    # The failure was heard and passed over: the server would say ROLLBACK, and no error.
    for rest in (True, False):
        talk.execute("BEGIN")
        add(talk, 2)
        talk.settle()
        with pytest.raises(psycopg.errors.UndefinedTable):
            talk.execute("SELECT * FROM nothing")
        if rest:
            add(talk, 3)
        with pytest.raises(psycopg.Error):
            talk.commit()
        talk.rollback()
    assert rows(talk) == []


def test_what_waits_when_it_is_undone_is_never_run(talk: Talk) -> None:
    talk.later("BEGIN")
    add(talk, 1)
    talk.settle()
    add(talk, 2)
    asked = talk.later("SELECT 1")
    talk.rollback()
    with pytest.raises(psycopg.OperationalError, match="undone"):
        asked.result()
    assert rows(talk) == []


def test_a_connection_that_is_gone_takes_what_waits_along(talk: Talk, url: str) -> None:
    talk.execute("BEGIN")
    add(talk, 1)
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.connect() as other:
        other.execute(text(f"SELECT pg_terminate_backend({talk.info.backend_pid}, 60000)"))
    with pytest.raises(psycopg.OperationalError):
        talk.commit()
    assert talk.closed
    with engine.connect() as other:
        assert other.execute(text("SELECT count(*) FROM log")).scalar() == 0
        other.execute(text("DROP TABLE log"))
        other.commit()


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    made = Database.open(url)
    yield made
    made.close()


def row(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "created_us": 0}


def names(tx: Tx) -> list[str]:
    found: list[str] = tx.run(NAMES).scalars()
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("keys", [None, ("k",)])
async def test_who_left_what_fails_learns_of_it_and_nobody_else(
    db: Database, keys: tuple[str] | None
) -> None:
    await db.write(lambda tx: tx.later(ADD, row("a")) and None, keys)
    with pytest.raises(IntegrityError) as raised:
        await db.write(lambda tx: tx.later(ADD, row("a")) and None, keys)
    assert getattr(raised.value.orig, "sql", "").startswith("INSERT")
    await db.write(lambda tx: tx.later(ADD, row("b")) and None, keys)
    assert await db.read(names) == ["a", "b"]


@pytest.mark.anyio
async def test_each_of_several_in_one_commit_fails_by_itself(db: Database) -> None:
    await db.write(lambda tx: tx.later(ADD, row("taken")) and None)
    refused: list[str] = []

    async def one(name: str) -> None:
        try:
            await db.write(lambda tx: tx.later(ADD, row(name)) and None)
        except IntegrityError:
            refused.append(name)

    async with anyio.create_task_group() as group:
        for n in range(30):
            group.start_soon(one, "taken" if n % 3 == 0 else f"name {n:02}")
    assert refused == ["taken"] * 10
    assert await db.read(names) == [f"name {n:02}" for n in range(30) if n % 3] + ["taken"]


@pytest.mark.anyio
async def test_a_failure_that_was_passed_over_is_not_called_a_success(db: Database) -> None:
    def work(tx: Tx) -> None:
        tx.later(ADD, row("lost"))
        try:
            tx.execute(text("SELECT * FROM nothing"))
        except Exception:  # noqa: BLE001  as careless code would
            return

    with pytest.raises((Unavailable, OperationalError, psycopg.Error)):
        await db.write(work)
    assert await db.read(names) == []
