"""Statements that are compiled once and handed to the driver as they are.

Building a statement, finding its compiled form and wrapping its result take ten times as long as
SQLite takes to run it by an index. What every request or every turn runs is therefore a module's
constant, made here and run by :meth:`intramuros.control.store.tx.Tx.run`; everything else stays
SQLAlchemy's. Types convert as SQLAlchemy converts them. Each database has its own text.
"""

from collections import namedtuple
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

from sqlalchemy import (
    JSON,
    ColumnElement,
    Delete,
    Insert,
    Row,
    Select,
    TextClause,
    Update,
    type_coerce,
)
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.interfaces import Compiled, Dialect
from sqlalchemy.types import TypeEngine

from intramuros.control.store.codec import as_sent, decode, encode

Convert = Callable[[Any], Any]
Parameters = Mapping[str, object]

# Statements kept for one list: a few hundred kilobytes.
SHAPES: Final = 64
DIALECT: Final = SQLiteDialect_pysqlite(
    paramstyle="named", json_serializer=encode, json_deserializer=decode
)


@dataclass(frozen=True)
class Plan:
    """A statement's text, and what to do with values on their way in and out.

    Args:
        sql: with its parameters as the driver names them.
        fixed: values that stand in the statement itself, converted.
        binds: converters of parameters, for those whose type has one.
        make: makes a row of a tuple.
        columns: converters of columns, by position, for those whose type has one.
    """

    sql: str
    fixed: Mapping[str, object]
    binds: Sequence[tuple[str, Convert]]
    make: Callable[[Sequence[Any]], Any]
    columns: Sequence[tuple[int, Convert]]

    def bound(self, parameters: Parameters) -> dict[str, object]:
        """Return what the driver gets for these parameters."""
        values = {**self.fixed, **parameters}
        for name, convert in self.binds:
            if name in values:
                values[name] = convert(values[name])
        return values

    def row(self, values: Sequence[Any]) -> "Row[Any]":
        """Return a row whose columns are attributes."""
        if self.columns:
            values = list(values)
            for position, convert in self.columns:
                values[position] = convert(values[position])
        return cast("Row[Any]", self.make(values))


class Prepared:
    """A statement that never changes: what varies are ``bindparam``s, or an insert's columns.

    Args:
        statement: without lists of values whose length varies; a text gives no rows.
    """

    def __init__(self, statement: Select[Any] | Insert | Update | Delete | TextClause) -> None:
        self._statement = statement
        self._plans: dict[tuple[object, ...], Plan] = {}

    def plan(self, parameters: Collection[str], dialect: Dialect = DIALECT) -> Plan:
        """Return how to run it with parameters of these names.

        Raises:
            ValueError: the statement is none that can be prepared.
        """
        key = (dialect, *parameters)
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = _plan(self._statement, list(parameters), dialect)
        return found


class Rows:
    """What a statement gave, read whole; rows have their columns as attributes."""

    __slots__ = ("_plan", "_values", "rowcount")

    def __init__(self, plan: Plan, values: Sequence[Sequence[Any]], rowcount: int) -> None:
        self._plan = plan
        self._values = values
        self.rowcount = rowcount

    def __iter__(self) -> "Iterator[Row[Any]]":
        """Go through the rows."""
        return map(self._plan.row, self._values)

    def all(self) -> "list[Row[Any]]":
        """Return every row."""
        return list(self)

    def first(self) -> "Row[Any] | None":
        """Return the first row, or None."""
        return self._plan.row(self._values[0]) if self._values else None

    def scalar(self) -> Any:  # noqa: ANN401  a column's value
        """Return the first column of the first row, or None."""
        row = self.first()
        return None if row is None else row[0]

    def scalars(self) -> list[Any]:
        """Return the first column of every row."""
        return [row[0] for row in self]


class Sent(JSON):
    """A JSON column that answers show whole: nothing decodes and encodes it on its way."""

    cache_ok = True


def sent(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a JSON column of a prepared statement for answers; they alone can encode it."""
    return type_coerce(column, Sent()).label(str(column.key))


def shaped(build: Callable[..., Select[Any]]) -> Callable[..., Prepared]:
    """Return what gives ``build``'s statement prepared, once for each combination of arguments.

    The arguments say which conditions there are, never their values, so that there are few; those
    that were not asked for lately are forgotten.
    """

    @lru_cache(maxsize=SHAPES)
    def find(*shape: Hashable) -> Prepared:
        return Prepared(build(*shape))

    return find


def _plan(
    statement: Select[Any] | Insert | Update | Delete | TextClause,
    names: list[str],
    dialect: Dialect,
) -> Plan:
    # An insert without values takes the columns that it is given.
    whole = isinstance(statement, Insert)
    compiled = statement.compile(dialect=dialect, column_keys=names if whole else None)
    binds = _binds(compiled, dialect)
    described: Sequence[Any]
    if isinstance(statement, Select):
        described = statement.column_descriptions
    elif isinstance(statement, TextClause):
        described = []
    else:
        described = statement.returning_column_descriptions
    columns = [
        (position, convert)
        for position, column in enumerate(described)
        if (convert := _out_of(column["type"], dialect))
    ]
    fields = [column["name"] for column in described]
    row: Any = namedtuple("row", fields, rename=True)  # type: ignore[misc]  # known only here
    converts = dict(binds)
    fixed = {
        name: converts[name](value) if name in converts else value
        for name, value in compiled.params.items()
        if name not in names
    }
    return Plan(
        str(compiled),
        fixed,
        [(name, convert) for name, convert in binds if name in names],
        type("row", (row,), {"__slots__": (), "_mapping": property(row._asdict)})._make,  # type: ignore[attr-defined]  # a named tuple's
        columns,
    )


def _out_of(type_: TypeEngine[Any], dialect: Dialect) -> Convert | None:
    """Return what makes a column's value of what the driver gives, if anything has to."""
    if isinstance(type_, Sent):
        return as_sent
    if isinstance(type_, JSON):
        # As SQLAlchemy's own, without its two layers around the decoder.
        return _of_json
    return type_.dialect_impl(dialect).result_processor(dialect, None)


def _of_json(text: Any) -> Any:  # noqa: ANN401  any JSON
    return None if text is None else decode(text)


def _binds(compiled: Compiled, dialect: Dialect) -> list[tuple[str, Convert]]:
    known: Any = compiled
    if known.post_compile_params or known.escaped_bind_names:
        raise ValueError("a statement with a list of values cannot be prepared")
    found = []
    for name, bind in known.binds.items():
        convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
        if convert is not None:
            found.append((name, convert))
    return found
