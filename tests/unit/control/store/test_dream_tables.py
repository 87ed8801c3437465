from intramuros.control.store import dream_tables, tables


def test_they_are_part_of_the_one_schema() -> None:
    for table in (dream_tables.dreams, dream_tables.dream_memories, dream_tables.dream_homes):
        assert table.metadata is tables.metadata


def test_what_a_dream_knows_goes_with_it() -> None:
    (key,) = dream_tables.dream_memories.c.dream_id.foreign_keys
    assert (key.column, key.ondelete) == (dream_tables.dreams.c.id, "CASCADE")
