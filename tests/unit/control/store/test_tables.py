import pytest
from sqlalchemy import Table, create_engine, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from intramuros.control.store import tables
from intramuros.control.store.tables import metadata


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "pg"])
def test_every_table_can_be_made_on_both_databases(table: Table, dialect: object) -> None:
    assert table.name in str(CreateTable(table).compile(dialect=dialect))
    for index in table.indexes:
        assert CreateIndex(index).compile(dialect=dialect)


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_times_are_whole_microseconds_and_say_so(table: Table) -> None:
    for column in table.columns:
        assert "date" not in type(column.type).__name__.lower(), column
        if column.name.endswith("_us"):
            assert type(column.type).__name__ == "BigInteger", column


def test_a_place_in_a_session_is_taken_once() -> None:
    engine = create_engine("sqlite://")
    tables.events.create(engine)
    row = {"type": "t", "queued": False, "internal": False, "at_us": 1, "body": {}}
    with engine.begin() as connection:
        insert = tables.events.insert()
        connection.execute(insert, {"session_id": "s", "seq": 1, "event_id": "a", **row})
        with pytest.raises(IntegrityError):
            connection.execute(insert, {"session_id": "s", "seq": 1, "event_id": "b", **row})
        with pytest.raises(IntegrityError):
            connection.execute(insert, {"session_id": "s", "seq": 2, "event_id": "a", **row})
        connection.execute(
            insert, {"session_id": "s", "seq": 2, "event_id": "a", **row, "queued": True}
        )
    engine.dispose()


def test_no_two_credentials_share_a_digest_and_none_is_kept_in_clear() -> None:
    columns = tables.credentials.columns
    assert columns["digest"].unique
    assert not {"secret", "token", "key", "value"} & set(columns.keys())


def test_a_fresh_database_holds_exactly_these_tables() -> None:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    assert set(inspect(engine).get_table_names()) == set(metadata.tables)
    engine.dispose()
