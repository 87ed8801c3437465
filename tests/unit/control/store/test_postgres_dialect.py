"""What tables and statements are on PostgreSQL; that they work there is tested on a real one."""

import json

import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.schema import CreateTable

from intramuros.control.store import metering_tables, tables
from intramuros.control.store.postgres_connection import plain
from intramuros.control.store.postgres_dialect import dialect

DIALECT = dialect(json.dumps, json.loads)


def test_text_is_compared_by_its_bytes_and_json_is_text() -> None:
    made = str(CreateTable(tables.resources).compile(dialect=DIALECT))
    assert 'kind VARCHAR COLLATE "C" NOT NULL' in made
    assert "body TEXT NOT NULL" in made
    assert "version BIGINT NOT NULL" in made
    spans = str(CreateTable(metering_tables.telemetry_spans).compile(dialect=DIALECT))
    assert "seq BIGSERIAL NOT NULL" in spans


def test_every_text_column_of_every_table_has_the_collation() -> None:
    for table in tables.metadata.tables.values():
        made = str(CreateTable(table).compile(dialect=DIALECT))
        assert made.count("VARCHAR") == made.count('VARCHAR COLLATE "C"')
        assert "INTEGER" not in made
        assert "JSON" not in made


def test_json_is_looked_into_as_the_databases_own() -> None:
    body = tables.resources.c.body
    one = str(select(body["name"].as_string()).compile(dialect=DIALECT))
    assert "CAST(resources.body AS json) ->>" in one
    nested = str(select(body["target"]["id"].as_string()).compile(dialect=DIALECT))
    assert "(CAST(resources.body AS json) -> " in nested
    assert nested.count("AS json") == 1


@pytest.mark.parametrize(
    ("state", "shown"), [("22P02", "DataError (22P02)"), ("23505", "IntegrityError (23505)")]
)
def test_errors_tell_no_values(state: str, shown: str) -> None:
    kind = psycopg.DataError if state.startswith("22") else psycopg.IntegrityError
    error = kind("what the server said: Key (id)=(secret) exists")
    error.sqlstate = state
    assert plain(error) == shown


def test_what_the_driver_says_itself_is_kept() -> None:
    assert plain(psycopg.OperationalError("the connection is lost")) == "the connection is lost"
