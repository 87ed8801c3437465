"""The database engine that tests run on: SQLite, or a real PostgreSQL started for them.

``pytest --engine=postgres`` runs everything on PostgreSQL; by default tests run on SQLite, and some
a second time there (tests/integration/control/store/test_both_engines.py). Tests ask
:func:`database_url` for a database and never spell a URL themselves.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, create_engine

from intramuros.control.store.postgres import Postgres
from intramuros.control.store.tables import metadata
from tests import postgres

SQLITE, POSTGRES = "sqlite", "postgres"


class _Engines:
    def __init__(self) -> None:
        self.current = SQLITE
        self._stack = ExitStack()
        self._cluster: postgres.Cluster | None = None

    @property
    def cluster(self) -> postgres.Cluster:
        """The server, started when it is asked for first."""
        if self._cluster is None:
            self._cluster = self._stack.enter_context(postgres.running())
        return self._cluster

    def release(self, directory: Path) -> None:
        """Give back the databases that a test had in a directory of its own."""
        if self._cluster is not None:
            self._cluster.release(directory)

    def close(self) -> None:
        self._stack.close()


ENGINES = _Engines()


def on_postgres() -> bool:
    return ENGINES.current == POSTGRES


def database_url(path: Path | str) -> str:
    """The URL of the database of that path: the same one whenever it is asked for again.

    A URL stays as it is: other processes are given one.
    """
    if isinstance(path, str):
        return path
    if ENGINES.current == SQLITE:
        return f"sqlite:///{path}"
    return ENGINES.cluster.database(str(path.absolute()))


def elsewhere(data_dir: Path) -> dict[str, str]:
    """The settings of a server whose database is not the file in its data directory."""
    if ENGINES.current == SQLITE:
        return {}
    return {"database_url": database_url(data_dir / "intramuros.db")}


@contextmanager
def opened(data_dir: Path) -> Iterator["Rows"]:
    """A look into a server's database from outside, or a change there."""
    url = database_url(data_dir / "intramuros.db")
    if ENGINES.current == POSTGRES:
        with psycopg.connect(url) as there:
            yield Rows(lambda sql, given: there.execute(sql, given or None).fetchall)
        return
    with closing(sqlite3.connect(data_dir / "intramuros.db", timeout=60)) as here, here:
        yield Rows(lambda sql, given: here.execute(sql, given).fetchall)


class Rows:
    """Runs statements that both engines understand, with ``?`` for values."""

    def __init__(self, run: Callable[[str, Sequence[object]], Callable[[], list[Any]]]) -> None:
        self._run = run

    def execute(self, sql: str, given: Sequence[object] = ()) -> list[Any]:
        if ENGINES.current == POSTGRES and given:
            sql = sql.replace("%", "%%").replace("?", "%s")
        fetch = self._run(sql, given)
        return fetch() if sql.startswith("SELECT") else []


def ignore_foreign_keys(connection: Connection) -> None:
    """Let rows of this transaction refer to what is not there."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
    else:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")


@contextmanager
def blank() -> Iterator[Connection]:
    """A transaction in a database with every table and no row, which is rolled back in the end."""
    engine = _blank_engine()
    with engine.connect() as connection, connection.begin():
        if connection.dialect.name == "sqlite":
            metadata.create_all(connection)
        yield connection
        connection.rollback()
    engine.dispose()


def _blank_engine() -> Engine:
    if ENGINES.current == SQLITE:
        engine = create_engine("sqlite://")
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        return engine
    return Postgres.open(ENGINES.cluster.database("blank")).engine
