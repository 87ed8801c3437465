from intramuros.control.store import tables
from intramuros.control.store.release_tables import releases


def test_the_tables_are_of_the_same_schema() -> None:
    assert releases.metadata is tables.metadata
