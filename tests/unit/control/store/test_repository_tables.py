from intramuros.control.store import tables
from intramuros.control.store.repository_tables import repository_tokens


def test_the_tables_are_of_the_same_schema() -> None:
    assert repository_tokens.metadata is tables.metadata
