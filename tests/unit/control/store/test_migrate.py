from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from intramuros.control.store.migrate import scripts, upgrade
from intramuros.control.store.tables import metadata
from intramuros.kernel.errors import OperatorError


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path / 'test.db'}")
    yield made
    made.dispose()


def schema(engine: Engine) -> dict[str, object]:
    """Return everything that both ways of making a database must agree on."""
    found = inspect(engine)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(table)],
            found.get_pk_constraint(table),
            sorted(found.get_foreign_keys(table), key=str),
            sorted(_plain(index) for index in found.get_indexes(table)),
            sorted(found.get_unique_constraints(table), key=str),
        )
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def _plain(index: Mapping[str, Any]) -> str:
    """Return an index as text, the condition of a partial one included."""
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return str({**index, "dialect_options": options})


def test_a_migrated_database_equals_a_fresh_one(engine: Engine, tmp_path: Path) -> None:
    upgrade(engine)
    fresh = create_engine(f"sqlite:///{tmp_path / 'fresh.db'}")
    metadata.create_all(fresh)
    assert schema(engine) == schema(fresh)
    fresh.dispose()
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    assert differences == [], "write a migration for what changed in store/tables.py"


def test_upgrading_again_changes_nothing(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO workspaces (id, name, created_us) VALUES ('w', 'kept', 0)")
        )
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT name FROM workspaces")) == "kept"


def test_a_database_of_a_newer_program_is_refused(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(OperatorError, match="unknown schema '9999'"):
        upgrade(engine)


def test_migrations_form_one_line_and_say_when_they_run() -> None:
    revisions = list(scripts().walk_revisions())
    assert len(scripts().get_heads()) == 1
    for revision in revisions:
        name = Path(revision.path).stem
        assert name.startswith((f"m{revision.revision}_pre_", f"m{revision.revision}_post_"))
