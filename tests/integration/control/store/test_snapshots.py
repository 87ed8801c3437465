"""One state of a database in a file, while others write."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from sqlalchemy import insert

from intramuros.control.store import migrate, snapshots, whole
from intramuros.control.store.db import Database
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import Unavailable

pytestmark = pytest.mark.sqlite


def quiet(_: str) -> None:
    """Progress of no interest."""


@pytest.fixture(params=["sqlite", "postgres"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'x.db'}"
    else:
        url = request.getfixturevalue("url")
    with closing(Database.open(url)) as made:
        migrate.upgrade(made.engine)
        add(made, "one")
        yield made


def add(db: Database, name: str) -> None:
    row = insert(workspaces).values(id=name, name=name, created_us=1)
    anyio.run(db.write, lambda tx: tx.execute(row))


def test_one_state_in_one_file(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def tell(line: str) -> None:
        # In the middle of it somebody writes, and need not wait.
        if len(said) == 1:
            add(db, "two")
        said.append(line)

    monkeypatch.setattr(snapshots, "_STEPS", 50)
    file = tmp_path / "copy.sqlite"
    snapshots.take(db, file, tell)
    assert len(said) > 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob("copy*")] == ["copy.sqlite"]
    content = file.read_bytes()
    with snapshots.frozen(file) as connection:
        assert whole.counts(connection)["workspaces"] == 1
        assert migrate.revision(connection) == migrate.scripts().get_current_head()
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    assert file.read_bytes() == content
    # Again, over what is left of an earlier run.
    snapshots.take(db, file, quiet)
    with snapshots.frozen(file) as connection:
        assert whole.counts(connection)["workspaces"] == 2


def test_what_is_deleted_is_not_in_it(tmp_path: Path) -> None:
    secret = "a secret that was deleted " * 50
    with closing(Database.open(f"sqlite:///{tmp_path / 'x.db'}")) as db:
        migrate.upgrade(db.engine)
        add(db, secret)
        anyio.run(db.write, lambda tx: tx.execute(workspaces.delete()))
        snapshots.take(db, tmp_path / "copy.sqlite", quiet)
    assert b"a secret that was deleted" not in (tmp_path / "copy.sqlite").read_bytes()


def test_a_refusal_says_why(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statement = "VACUUM INTO nowhere"

    def fail(*_: object) -> None:
        with db.engine.connect() as connection:
            connection.exec_driver_sql(statement)

    monkeypatch.setattr(snapshots, "_vacuum", fail)
    monkeypatch.setattr(snapshots.whole, "copy", fail)
    with pytest.raises(Unavailable, match="the database could not be copied"):
        snapshots.take(db, tmp_path / "copy.sqlite", quiet)


def test_a_file_that_is_looked_at_is_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "a file?with#odd name%.db"
    with closing(sqlite3.connect(file)) as made, made:
        made.execute("CREATE TABLE a (b)")
    with snapshots.frozen(file) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM a").scalar() == 0
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
