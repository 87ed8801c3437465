from pathlib import Path

import anyio

from intramuros.control.identity.installation import open_installation
from tests.unit.cli.conftest import Run, Served


def test_check_and_upgrade(run: Run, served: Served) -> None:
    checked = run("db", "check", "--data-dir", served.data_dir)
    assert checked.status == 0, checked.err
    assert checked.out.startswith("database ok\tschema ")
    assert run("db", "upgrade", "--data-dir", served.data_dir).out.startswith("schema ")


def test_nothing_is_created_where_nothing_is(run: Run, tmp_path: Path) -> None:
    ran = run("db", "check", "--data-dir", tmp_path / "absent")
    assert ran.status == 2
    assert "there is no database" in ran.err
    assert not (tmp_path / "absent").exists()


def test_what_is_wrong_is_told_with_its_cure(run: Run, tmp_path: Path) -> None:
    anyio.run(make, tmp_path)
    (tmp_path / "master-key").unlink()
    ran = run("db", "check", "--data-dir", tmp_path, "--deep")
    assert ran.status == 1
    first, second = ran.out.splitlines()
    assert first == f"✗ there is no master key {tmp_path / 'master-key'}"
    assert second.startswith("    put it back")
    assert ran.err == "error: 1 thing(s) are wrong: see the lines marked ✗\n"
    assert not (tmp_path / "master-key").exists()


def test_a_file_that_is_no_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / "intramuros.db").write_text("no database" * 100)
    ran = run("db", "check", "--data-dir", tmp_path)
    assert ran.status == 2
    assert ran.err.count("\n") == 1


async def make(data_dir: Path) -> None:
    (await open_installation(data_dir)).close()


def test_a_new_master_key_while_no_server_runs(run: Run, served: Served, tmp_path: Path) -> None:
    refused = run("db", "rotate-key", "--data-dir", served.data_dir)
    assert refused.status == 2
    assert "stop the server" in refused.err
    assert run("db", "rotate-key", "--data-dir", tmp_path / "absent").status == 2
    fresh = tmp_path / "data"
    anyio.run(make, fresh)
    done = run("db", "rotate-key", "--data-dir", fresh)
    assert done.status == 0, done.err
    assert done.out == "0 values sealed by a new master key\n"
