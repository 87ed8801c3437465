"""SQLAlchemy's PostgreSQL dialect, such that our tables mean there what they mean on SQLite.

Text is compared by its bytes, whole numbers have 64 bits, and JSON is text that our own codec
wrote: PostgreSQL's own JSON types would refuse some of it, such as infinite numbers.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import JSON, BinaryExpression, Column, ColumnClause, String, cast
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.base import PGDDLCompiler, PGTypeCompiler
from sqlalchemy.dialects.postgresql.psycopg import PGCompiler_psycopg, PGDialect_psycopg
from sqlalchemy.engine import interfaces
from sqlalchemy.types import UserDefinedType

from intramuros.control.store.postgres_connection import Talk

_VARCHAR: Final = re.compile(r" VARCHAR(\(\d+\))?")


class _Parsed(UserDefinedType[Any]):
    """The database's JSON, for looking into a column."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "json"


class _Text(JSON):
    """JSON as text."""


class _Types(PGTypeCompiler):
    def visit_JSON(self, type_: Any, **kw: Any) -> str:  # noqa: ANN401  as it inherits
        return "TEXT"

    def visit_INTEGER(self, type_: Any, **kw: Any) -> str:  # noqa: ANN401  as it inherits
        return "BIGINT"


class _Ddl(PGDDLCompiler):
    def get_column_specification(self, column: Column[Any], **kwargs: Any) -> str:  # noqa: ANN401  as it inherits
        inherited: Any = super()
        text: str = inherited.get_column_specification(column, **kwargs)
        if isinstance(column.type, String):
            return _VARCHAR.sub(r'\g<0> COLLATE "C"', text, count=1)
        return text.replace(" SERIAL", " BIGSERIAL", 1)


class _Statements(PGCompiler_psycopg):
    def visit_json_getitem_op_binary(
        self,
        binary: BinaryExpression[Any],
        operator: Any,  # noqa: ANN401  as it inherits
        _cast_applied: bool = False,
        **kw: Any,  # noqa: ANN401  as it inherits
    ) -> str:
        if isinstance(binary.left, ColumnClause):
            binary = binary._clone()
            binary.left = cast(binary.left, _Parsed())
        inherited: Any = super()
        text: str = inherited.visit_json_getitem_op_binary(binary, operator, _cast_applied, **kw)
        return text


class Dialect(PGDialect_psycopg):
    """The dialect of URLs that begin with ``postgresql+intramuros``."""

    driver = "intramuros"
    supports_statement_cache = True
    supports_native_json_serialization = False
    supports_native_json_deserialization = False
    statement_compiler = _Statements
    ddl_compiler = _Ddl
    type_compiler_cls = _Types

    def connect(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as it inherits
        """Return a new connection of the driver."""
        return Talk.connect(*args, **kwargs)

    colspecs = {**PGDialect_psycopg.colspecs, JSON: _Text}


def dialect(encode: Callable[[object], str], decode: Callable[[str], Any]) -> interfaces.Dialect:
    """Return the dialect by itself, to compile statements with."""
    made: Any = Dialect
    compiler: interfaces.Dialect = made(json_serializer=encode, json_deserializer=decode)
    return compiler


def register() -> None:
    """Make the dialect known to SQLAlchemy."""
    registry.register("postgresql.intramuros", __name__, "Dialect")
