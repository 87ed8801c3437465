"""Whole tables, row by row, between databases of either engine.

Values pass as they lie in the database: JSON as the text that our codec wrote, bytes as bytes,
truth as 0 and 1. Rows go in the order of their keys, which both engines compare by bytes, so that
the same rows have the same digest wherever they are.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec
from sqlalchemy import Boolean, Connection, String, Table, inspect

from intramuros.control.store.drivers import raw
from intramuros.control.store.migrate import SCHEMA
from intramuros.kernel.errors import OperatorError

# Rows that are held in memory at once.
BATCH: Final = 1_000
# Dependents last.
TABLES: Final = tuple(SCHEMA.sorted_tables)
# Numbers that are never given twice, even when the rows that had them are gone: table, column.
NUMBERED: Final = (("telemetry_spans", "seq"),)

# What PostgreSQL still holds of sessions that are deleted is not part of any state.
_LEFT_OUT: Final = {
    "events": "WHERE NOT EXISTS"
    " (SELECT 1 FROM removed_logs WHERE removed_logs.session_id = events.session_id)",
    "removed_logs": "WHERE false",
}

_encode: Final = msgspec.msgpack.Encoder().encode

Values = tuple[Any, ...]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Sum:
    """What a table holds: how many rows, and the SHA-256 of all of them in order."""

    rows: int
    sha256: str


class _Adder:
    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._rows = 0

    def passing(self, rows: Iterable[Values]) -> Iterator[Values]:
        for row in rows:
            self._digest.update(_encode(row))
            self._rows += 1
            yield row

    def sum(self) -> Sum:
        return Sum(self._rows, self._digest.hexdigest())


def occupied(connection: Connection) -> str | None:
    """Return the name of a table of ours that has a row, or None; tables may be missing."""
    for name in sorted(set(inspect(connection).get_table_names()) & set(SCHEMA.tables)):
        if connection.exec_driver_sql(f"SELECT 1 FROM {name} LIMIT 1").first() is not None:  # noqa: S608  a name of ours
            return name
    return None


def counts(connection: Connection) -> dict[str, int]:
    """Return how many rows each table of ours has; one that an older schema lacks is left out."""
    there = set(inspect(connection).get_table_names())
    return {
        table.name: int(
            connection.exec_driver_sql(f"SELECT count(*) FROM {table.name}").scalar() or 0  # noqa: S608  a name of ours
        )
        for table in TABLES
        if table.name in there
    }


def sums(connection: Connection, tell: Tell) -> dict[str, Sum]:
    """Return what each table holds, as this transaction sees it."""
    found = {}
    for table in TABLES:
        tell(f"reading {table.name}")
        adder = _Adder()
        for _ in adder.passing(_rows(connection, table)):
            pass
        found[table.name] = adder.sum()
    return found


def copy(source: Connection, target: Connection, tell: Tell) -> dict[str, Sum]:
    """Copy every row into empty tables of the same schema; return what was copied.

    Both are in a transaction; that of the source sees one state.
    """
    copied = {}
    for table in TABLES:
        tell(f"copying {table.name}")
        adder = _Adder()
        _put(target, table, adder.passing(_rows(source, table)))
        copied[table.name] = adder.sum()
    for name, column in NUMBERED:
        _set_number(target, name, column, _number(source, name, column))
    return copied


def check_fits_postgres(source: Connection) -> None:
    """Look through a SQLite database for text that PostgreSQL cannot hold.

    Raises:
        OperatorError: there is some; says where.
    """
    for table in TABLES:
        # JSON writes that character as six others.
        texts = [column.name for column in table.columns if isinstance(column.type, String)]
        if not texts:
            continue
        found = " OR ".join(f"instr({_quoted(source, name)}, char(0)) > 0" for name in texts)
        keys = ", ".join(_quoted(source, column.name) for column in table.primary_key)
        row = source.exec_driver_sql(
            f"SELECT {keys} FROM {table.name} WHERE {found} LIMIT 1"  # noqa: S608  names of ours
        ).first()
        if row is not None:
            which = ", ".join(repr(value) for value in row)
            raise OperatorError(
                f"a text in the table {table.name} (row {which}) has the character U+0000, which"
                " PostgreSQL cannot hold",
                "rename or delete it by the API first",
            )


def _rows(connection: Connection, table: Table) -> Iterator[Values]:
    names = ", ".join(_quoted(connection, column.name) for column in table.columns)
    keys = ", ".join(_quoted(connection, column.name) for column in table.primary_key)
    if connection.dialect.name == "sqlite":
        yield from raw(connection).execute(f"SELECT {names} FROM {table.name} ORDER BY {keys}")  # noqa: S608  names of ours
        return
    sql = f"SELECT {names} FROM {table.name} {_LEFT_OUT.get(table.name, '')} ORDER BY {keys}"  # noqa: S608  names of ours
    truths = [n for n, column in enumerate(table.columns) if isinstance(column.type, Boolean)]
    with raw(connection).cursor(name="whole") as cursor:
        cursor.itersize = BATCH
        cursor.execute(sql)
        for row in cursor:
            yield _as_numbers(row, truths) if truths else row


def _as_numbers(row: Values, truths: Sequence[int]) -> Values:
    values = list(row)
    for n in truths:
        if values[n] is not None:
            values[n] = int(values[n])
    return tuple(values)


def _put(connection: Connection, table: Table, rows: Iterator[Values]) -> None:
    names = ", ".join(_quoted(connection, column.name) for column in table.columns)
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * len(table.columns))
        sql = f"INSERT INTO {table.name} ({names}) VALUES ({places})"  # noqa: S608  names of ours
        while batch := list(islice(rows, BATCH)):
            raw(connection).executemany(sql, batch)
        return
    with (
        raw(connection).cursor() as cursor,
        cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as stream,
    ):
        for row in rows:
            stream.write_row(row)


def _number(connection: Connection, name: str, column: str) -> int:
    """Return the last number that a table gave, 0 for none."""
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql(
            "SELECT seq FROM sqlite_sequence WHERE name = ?", (name,)
        ).scalar()
        return int(found or 0)
    sequence = connection.exec_driver_sql(
        "SELECT pg_get_serial_sequence(%s, %s)", (name, column)
    ).scalar()
    last, called = connection.exec_driver_sql(
        f"SELECT last_value, is_called FROM {sequence}"  # noqa: S608  a name of ours
    ).one()
    return int(last) if called else 0


def _set_number(connection: Connection, name: str, column: str, last: int) -> None:
    if last == 0:
        return
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        connection.exec_driver_sql("INSERT INTO sqlite_sequence VALUES (?, ?)", (name, last))
        return
    connection.exec_driver_sql(
        "SELECT setval(pg_get_serial_sequence(%s, %s), %s)", (name, column, last)
    )


def _quoted(connection: Connection, name: str) -> str:
    quoted: str = connection.dialect.identifier_preparer.quote(name)
    return quoted
