import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, insert, select
from sqlalchemy.dialects import postgresql

from intramuros.control.store.keyset import beyond

PLACES = Table("places", MetaData(), Column("at", Integer), Column("id", String))
KEYS = (PLACES.c.at, PLACES.c.id)
ROWS = [(at, id) for at in (1, 2, 3) for id in "abc"]


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("place", ROWS)
def test_it_is_what_sorting_puts_behind(place: tuple[int, str], ascending: bool) -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        PLACES.metadata.create_all(connection)
        connection.execute(insert(PLACES), [{"at": at, "id": id} for at, id in ROWS])
        found = connection.execute(select(PLACES).where(beyond(KEYS, place, ascending=ascending)))
        assert {tuple(row) for row in found} == {
            row for row in ROWS if (row > place if ascending else row < place)
        }
    engine.dispose()


def test_it_compares_rows_in_every_dialect() -> None:
    text = str(beyond(KEYS, (1, "a"), ascending=False).compile(dialect=postgresql.dialect()))
    assert text.startswith("(places.at, places.id) < (")
