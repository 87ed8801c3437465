"""Whatever is wrong is named, with its place and its cure; and each cure of the runbook cures."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from intramuros.control.identity.installation import open_installation
from intramuros.control.store.db import Tx
from intramuros.control.store.records import Draft
from intramuros.control.upkeep import move, restore
from intramuros.control.upkeep.attached import Place, attach
from intramuros.control.upkeep.check import NAMED, Finding, examine
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import ManualClock
from tests.fakes.installation import CONTENTS
from tests.fakes.world import World
from tests.integration.control.upkeep.test_backup import flip, made_of, quiet
from tests.unit.control.session.test_threads import IDLE, OTHER, created, led, status

pytestmark = pytest.mark.sqlite


def wrong_with(place: Place, *, deep: bool = False) -> list[Finding]:
    return [one for one in examine(place, quiet, deep=deep) if one.fix]


def change(place: Place, *statements: str) -> None:
    with closing(sqlite3.connect(place.data_dir / "intramuros.db")) as rows:
        with rows:
            for statement in statements:
                assert rows.execute(statement).rowcount
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def largest_file(place: Place) -> Path:
    files = [path for path in (place.data_dir / "blobs").rglob("*") if path.is_file()]
    found = max(files, key=lambda path: path.stat().st_size)
    assert found.stat().st_size == len(CONTENTS[0])
    return found


def break_page(place: Place, table: str) -> None:
    change(place, "UPDATE alembic_version SET version_num = version_num")
    with closing(sqlite3.connect(place.data_dir / "intramuros.db")) as rows:
        root = rows.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()[0]
        size = rows.execute("PRAGMA page_size").fetchone()[0]
    with (place.data_dir / "intramuros.db").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_installation(good: Place, deep: bool) -> None:
    assert wrong_with(good, deep=deep) == []
    said = [one.what for one in examine(good, quiet, deep=deep)]
    assert "the database file is whole" in said
    assert "the logs of 2 sessions have no gap" in said
    assert ("the logs of 2 sessions add up to their states" in said) == deep
    assert any(line.endswith("opens all of 5 secrets") for line in said)
    assert "the bytes of 3 files are there" in said


# What happened, what is said of it, and where the cure is.
ACCIDENTS: dict[str, tuple[Callable[[Place], object], str, str]] = {
    "a page": (
        lambda place: break_page(place, "memory_versions"),
        r"the database file is damaged: .*memory_versions|the database (file is damaged|cannot be)",
        "restore a backup",
    ),
    "the events": (
        lambda place: break_page(place, "events"),
        r"the database (file is damaged|cannot be read)",
        "restore a backup",
    ),
    "a row's parent": (
        lambda place: change(place, "UPDATE sessions SET agent_id = 'nobody' WHERE rowid = 1"),
        r"row 1 of the table sessions refers to a row of resources that is not there",
        "restore a backup",
    ),
    "the schema": (
        lambda place: change(place, "UPDATE alembic_version SET version_num = '0001'"),
        r"the schema is 0001, not ",
        "intramuros db upgrade",
    ),
    "an audit record": (
        lambda place: change(place, "UPDATE audit SET line = replace(line, 'a', 'b') WHERE seq=2"),
        r"the audit chain is not what was written: record 2",
        "keep this copy",
    ),
    "an event": (
        lambda place: change(place, "DELETE FROM events WHERE seq = 1 AND rowid = 1"),
        r"the log of session sesn_\w+ has \d+ events of \d+",
        "restore a backup",
    ),
    "the key": (
        lambda place: place.master_key.write_text("A" * 43 + "="),
        r"5 secrets are sealed by another master key than \w{32}",
        "disaster.md",
    ),
    "no key": (
        lambda place: place.master_key.unlink(),
        r"there is no master key .*/master-key",
        "disaster.md",
    ),
    "a key for all": (
        lambda place: place.master_key.chmod(0o644),
        r"may be read by others",
        "chmod 600",
    ),
    "a secret": (
        lambda place: change(place, "UPDATE webhook_endpoints SET secret = zeroblob(40)"),
        r"1 of 5 secrets do not open: webhook/whep_",
        "restore a backup",
    ),
    "a file": (
        lambda place: largest_file(place).unlink(),
        r"the bytes of file_0 in wrkspc_\w+ are lost: blob ",
        "restore --files-only",
    ),
    "a restore": (
        lambda place: (place.data_dir / "intramuros.db.restoring").touch(),
        r"a restore was broken off: .*intramuros.db.restoring is there",
        "intramuros db restore` again",
    ),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_an_accident_is_named_with_its_cure(good: Place, accident: str) -> None:
    happen, what, cure = ACCIDENTS[accident]
    happen(good)
    found = wrong_with(good)
    assert found
    assert any(re.search(what, one.what) and cure in one.fix for one in found), found


def test_deep_looks_find_what_others_cannot(good: Place) -> None:
    flip(largest_file(good))
    change(good, "UPDATE sessions SET state = replace(state, '\"idle\"', '\"running\"')")
    change(good, "UPDATE events SET type = 'user.interrupt' WHERE seq = 1")
    assert wrong_with(good) == []
    found = [one.what for one in wrong_with(good, deep=True)]
    assert sum("adds up to another state" in line for line in found) == 2
    assert any("file_0" in line and "damaged or lost" in line for line in found)


async def _lead(place: Place) -> None:
    """Make a session in which one child thread has left and another is at work."""
    opened = await open_installation(place.data_dir)

    def work(tx: Tx) -> None:
        made = World(tx, ManualClock(), opened.ids, opened.workspace_id, opened.db)
        session_id = led(made)

        def append(*drafts: Draft) -> None:
            made.journal.append(tx, made.journal.hold(tx, session_id), drafts)

        append(created(), created(OTHER), Draft("session.status_running"))
        append(status("running"), status("running", OTHER))
        made.clock.advance(7)
        append(status("idle", **IDLE), status("terminated"))

    try:
        await opened.db.write(work)
    finally:
        opened.close()


def test_a_state_of_an_earlier_release_is_what_its_log_adds_up_to(good: Place) -> None:
    anyio.run(_lead, good)
    assert wrong_with(good, deep=True) == []
    ours = "WHERE state LIKE '%departed_us%'"
    less = "UPDATE sessions SET state = json_remove(state, '$.crew.departed_us')"
    change(good, f"{less} {ours}")
    assert wrong_with(good, deep=True) == []
    # The rows of threads must say what the log says.
    change(good, "UPDATE threads SET state = '{\"active_us\": 5}' WHERE status = 'terminated'")
    (wrong,) = wrong_with(good, deep=True)
    assert "adds up to another state" in wrong.what


def test_of_many_some_are_named_and_the_rest_counted(place: Place) -> None:
    with closing(sqlite3.connect(place.data_dir / "intramuros.db")) as rows, rows:
        rows.executemany(
            "INSERT INTO blobs SELECT ?, workspace_id, ?, 1, 'x', NULL, 0, 1 FROM blobs LIMIT 1",
            [(f"gone/{n}", f"file_{n}") for n in range(20)],
        )
    found = [one.what for one in wrong_with(place)]
    assert sum("blob " in line for line in found) == NAMED
    assert "18 more files are lost" in found


def test_what_cannot_be_opened_is_told(good: Place, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="there is no database"):
        list(examine(Place(tmp_path / "absent"), quiet))
    (good.data_dir / "intramuros.db").write_bytes(b"no database" * 1000)
    for path in good.data_dir.glob("intramuros.db-*"):
        path.unlink()
    with pytest.raises(OperatorError, match=r"not a database.*disaster\.md"):
        list(examine(good, quiet))


@pytest.mark.timeout(240)
def test_on_postgresql_too(good: Place, empty_url: str) -> None:
    move.move(good, empty_url, quiet)
    there = Place(good.data_dir, empty_url)
    assert wrong_with(there, deep=True) == []
    opened = attach(there)
    with opened.db.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM events WHERE seq = 2")
        connection.exec_driver_sql("UPDATE audit SET line = '{}' WHERE seq = 3")
    opened.close()
    found = [one.what for one in wrong_with(there)]
    assert [line for line in found if "has 1 events of 2" in line or "record 3" in line] == found
    assert len(found) == 3


# The runbook's cures.


def test_runbook_a_damaged_database(good: Place, tmp_path: Path) -> None:
    made_of(good, tmp_path / "b")
    break_page(good, "events")
    assert wrong_with(good)
    (good.data_dir / "damaged").mkdir()
    for path in list(good.data_dir.glob("intramuros.db*")):
        path.rename(good.data_dir / "damaged" / path.name)
    done = restore.restore(tmp_path / "b", good, quiet)
    assert done.lost == ()
    assert wrong_with(good, deep=True) == []


def test_runbook_lost_files(good: Place, tmp_path: Path) -> None:
    made_of(good, tmp_path / "b")
    content = largest_file(good).read_bytes()
    largest_file(good).unlink()
    opened = attach(good)
    assert len(restore.restore_files(tmp_path / "b", opened, quiet).put_back) == 1
    assert largest_file(good).read_bytes() == content
    # What only looks like it is left out.
    largest_file(good).unlink()
    kept = [path for path in (tmp_path / "b" / "blobs").rglob("*") if path.is_file()]
    flip(max(kept, key=lambda path: path.stat().st_size))
    again = restore.restore_files(tmp_path / "b", opened, quiet)
    assert (again.put_back, len(again.lost)) == ((), 1)
    opened.close()


def test_runbook_a_restore_that_was_broken_off(good: Place) -> None:
    (good.data_dir / "intramuros.db.restoring").touch()
    with pytest.raises(OperatorError, match="broken off"):
        anyio.run(open_installation, good.data_dir)
