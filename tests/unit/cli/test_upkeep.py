import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from intramuros.cli import upkeep
from intramuros.cli.upkeep import Progress
from intramuros.control.identity.installation import open_installation
from tests.unit.cli.conftest import Run, Served

pytestmark = pytest.mark.sqlite


async def make(data_dir: Path) -> None:
    (await open_installation(data_dir)).close()


def test_back_up_a_running_server_and_restore_it(run: Run, served: Served, tmp_path: Path) -> None:
    backup = tmp_path / "b"
    done = run("db", "backup", backup, "--data-dir", served.data_dir, "--verify")
    assert done.status == 0, done.err
    assert done.out.startswith(f"{backup}\t")
    again = run("db", "backup", backup, "--data-dir", served.data_dir)
    assert (again.status, "is there already" in again.err) == (2, True)
    key = served.data_dir / "master-key"
    seen = run("db", "verify", backup, "--master-key", key)
    assert seen.status == 0, seen.err
    assert "\tof key " in seen.out
    # As the runbook has it: the key first, then everything else.
    new = tmp_path / "new"
    refused = run("db", "restore", backup, "--data-dir", new)
    assert (refused.status, "there is no master key" in refused.err) == (2, True)
    new.mkdir()
    shutil.copy(key, new)
    restored = run("db", "restore", backup, "--data-dir", new)
    assert restored.status == 0, restored.err
    assert restored.out.startswith("restored\t")
    assert run("db", "check", "--data-dir", new).status == 0
    occupied = run("db", "restore", backup, "--data-dir", served.data_dir)
    assert (occupied.status, "stop the server" in occupied.err) == (2, True)


def test_what_is_damaged_has_status_1(run: Run, tmp_path: Path) -> None:
    anyio.run(make, tmp_path / "data")
    made = run("db", "backup", tmp_path / "b", "--data-dir", tmp_path / "data", "--no-blobs")
    assert made.status == 0, made.err
    assert "\tno files\t" in made.out
    with (tmp_path / "b" / "database.sqlite").open("r+b") as file:
        file.seek(5_000)
        file.write(b"xxxx")
    seen = run("db", "verify", tmp_path / "b")
    assert (seen.status, seen.out) == (1, "")
    assert "is damaged" in seen.err
    assert seen.err.count("\n") == 1


def test_a_move_wants_to_know_where_to(run: Run, tmp_path: Path) -> None:
    anyio.run(make, tmp_path / "data")
    lost = run("db", "move", "--data-dir", tmp_path / "data")
    assert (lost.status, "nowhere to move to" in lost.err) == (2, True)
    other = run("db", "move", "--data-dir", tmp_path / "data", INTRAMUROS_MOVE_TO="sqlite:///x")
    assert (other.status, "to PostgreSQL only" in other.err) == (2, True)
    undone = run("db", "move", "--data-dir", tmp_path / "data", "--undo")
    assert (undone.status, "was not moved" in undone.err) == (2, True)


def test_files_come_back_from_a_backup(run: Run, tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "data")
    anyio.run(make, tmp_path / "data")
    assert run("db", "backup", tmp_path / "b", *data).status == 0
    done = run("db", "restore", tmp_path / "b", *data, "--files-only")
    assert (done.status, done.out) == (0, "put back 0 files\n"), done.err
    lost = "INSERT INTO blobs SELECT 'gone', id, 'file_1', 1, '00', NULL, 0, 1 FROM workspaces"
    with closing(sqlite3.connect(tmp_path / "data" / "intramuros.db")) as rows, rows:
        rows.execute(lost)
    done = run("db", "restore", tmp_path / "b", *data, "--files-only")
    assert (done.status, "1 files are not in this backup, gone for one" in done.err) == (1, True)
    again = run("db", "backup", tmp_path / "c", *data)
    assert (again.status, "whole but for 1 files" in again.err) == (1, True)
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(tmp_path / "data" / "master-key", new)
    restored = run("db", "restore", tmp_path / "c", "--data-dir", new)
    assert (restored.status, "but for 1 files, gone" in restored.err) == (1, True)


def test_a_lost_key_is_replaced_only_when_that_is_meant(run: Run, tmp_path: Path) -> None:
    anyio.run(make, tmp_path / "data")
    asked = run("db", "replace-lost-key", "--data-dir", tmp_path / "data")
    assert (asked.status, "--give-up-secrets" in asked.err) == (2, True)
    (tmp_path / "data" / "master-key").unlink()
    done = run("db", "replace-lost-key", "--give-up-secrets", "--data-dir", tmp_path / "data")
    assert done.status == 0, done.err
    assert done.out.startswith("master key ")


def test_progress_is_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(upkeep, "_PERIOD_S", 0.0)
    told = Progress()
    told.tell("one of two")
    assert capsys.readouterr().err == "one of two\n"
    monkeypatch.setattr(upkeep, "_PERIOD_S", 60.0)
    told = Progress()
    told.tell("one of two")
    assert capsys.readouterr().err == ""
