"""Whole tables between engines, value by value."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from intramuros.control.store import migrate, whole
from intramuros.control.store.db import Database
from intramuros.control.store.drivers import raw
from intramuros.kernel.errors import OperatorError
from tests.postgres import Cluster

pytestmark = pytest.mark.sqlite

WORKSPACE = ("w\\N\t\n'ü\U0001f600", "", 2**63 - 1, None, '{"a": NaN, "a": 1.10, "b": "\\u0000"}')


def quiet(_: str) -> None:
    """Progress of no interest."""


@contextmanager
def opened(url: str) -> Iterator[Connection]:
    with closing(Database.open(url)) as db:
        migrate.upgrade(db.engine)
        with db.engine.connect() as connection, db.backend.transaction(connection, None):
            yield connection


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Connection]:
    with opened(f"sqlite:///{tmp_path / 'x.db'}") as connection:
        raw(connection).execute("INSERT INTO workspaces VALUES (?, ?, ?, ?, ?)", WORKSPACE)
        raw(connection).executemany(
            "INSERT INTO workspaces VALUES (?, ?, ?, ?, ?)",
            [(name, name, 1, 1, None) for name in ("B", "a", "Ä", "_")],
        )
        yield connection


def test_values_come_back_as_they_were(here: Connection, url: str, tmp_path: Path) -> None:
    raw(here).execute("INSERT INTO secrets VALUES ('s', ?, -1)", (b"\x00\xff\\x",))
    raw(here).execute("INSERT INTO compliance VALUES ('c', 1, 2)")
    raw(here).execute("INSERT INTO compliance VALUES ('d', 0, 2)")
    raw(here).execute("INSERT INTO sqlite_sequence VALUES ('telemetry_spans', 99)")
    with opened(url) as there, opened(f"sqlite:///{tmp_path / 'y.db'}") as back:
        copied = whole.copy(here, there, quiet)
        assert whole.sums(there, quiet) == copied == whole.sums(here, quiet)
        assert copied["workspaces"].rows == 5
        assert whole.copy(there, back, quiet) == copied
        seen = raw(there).execute("SELECT * FROM workspaces WHERE created_us > 1").fetchall()
        assert seen == [WORKSPACE]
        assert raw(there).execute("SELECT enabled FROM compliance").fetchall() == [(1,), (0,)]
        for one in (there, back):
            number = one.exec_driver_sql(
                "INSERT INTO telemetry_spans (workspace_id, at_us, span)"
                " VALUES ('w', 1, '{}') RETURNING seq"
            ).scalar()
            assert number == 100
        assert whole.counts(there)["workspaces"] == 5


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE workspaces SET created_us = 2 WHERE id = 'a'",
        "UPDATE workspaces SET archived_us = NULL WHERE id = 'a'",
        "UPDATE workspaces SET name = name || ' ' WHERE id = 'a'",
        "DELETE FROM workspaces WHERE id = 'a'",
    ],
)
def test_any_difference_is_another_sum(here: Connection, change: str) -> None:
    before = whole.sums(here, quiet)
    raw(here).execute(change)
    after = whole.sums(here, quiet)
    assert before.pop("workspaces") != after.pop("workspaces")
    assert before == after


def test_what_is_there_is_seen(here: Connection, cluster: Cluster, url: str) -> None:
    assert whole.occupied(here) == "workspaces"
    with opened(url) as there:
        assert whole.occupied(there) is None
    with closing(Database.open(cluster.bare("nothing"))) as db, db.engine.connect() as bare:
        assert whole.occupied(bare) is None
        assert whole.counts(bare) == {}


def test_text_that_postgresql_cannot_hold_is_found_before(here: Connection) -> None:
    whole.check_fits_postgres(here)
    raw(here).execute("UPDATE workspaces SET name = 'x' || char(0) WHERE id = 'B'")
    with pytest.raises(OperatorError, match=r"table workspaces \(row 'B'\)"):
        whole.check_fits_postgres(here)
