from intramuros.control.store import session_tables, tables


def test_they_are_part_of_the_one_schema_and_go_with_their_session() -> None:
    for table in (session_tables.threads, session_tables.session_skills):
        assert table.metadata is tables.metadata
        (key,) = table.c.session_id.foreign_keys
        assert (key.column, key.ondelete) == (tables.sessions.c.id, "CASCADE")
