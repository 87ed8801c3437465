from pathlib import Path

from sqlalchemy import create_engine, inspect

from intramuros.control.store.migrate import upgrade


def test_it_adds_memory_to_what_was_there(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    upgrade(engine)
    looked = inspect(engine)
    assert {"memories", "memory_versions", "memory_attachments"} <= set(looked.get_table_names())
    assert [i["name"] for i in looked.get_indexes("memories") if i["unique"]] == [
        "ix_memories_path"
    ]
    (keys,) = looked.get_foreign_keys("memory_attachments")
    assert keys["options"] == {"ondelete": "CASCADE"}
    engine.dispose()
