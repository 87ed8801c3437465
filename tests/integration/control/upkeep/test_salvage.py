"""What is saved of a damaged SQLite file without a backup, by the runbook's commands."""

import shutil
import sqlite3
import subprocess
from contextlib import closing

import pytest

from intramuros.control.upkeep import check
from intramuros.control.upkeep.attached import Place
from tests.integration.control.upkeep.test_backup import quiet
from tests.repo.tree import ROOT

PAGE = 4096

pytestmark = [
    pytest.mark.sqlite,
    pytest.mark.skipif(
        shutil.which("sqlite3") is None, reason="NO sqlite3: the runbook for damage goes untested"
    ),
]


def commands() -> str:
    """The runbook's commands that make a file of a damaged one."""
    text = (ROOT / "docs/how-to/disaster.md").read_text()
    (block,) = [part for part in text.split("```")[1::2] if "sqlite3 damaged/" in part]
    return "\n".join(line for line in block.splitlines() if "db check" not in line)


def damage(place: Place, table: str) -> None:
    """Overwrite the first page of a table."""
    assert place.file is not None
    with closing(sqlite3.connect(place.file)) as rows:
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        named = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (page,) = rows.execute(named, (table,)).fetchone()
    with place.file.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xff" * PAGE)


def test_what_can_be_read_is_saved(good: Place) -> None:
    assert good.file is not None
    damage(good, "telemetry_spans")
    damaged = good.data_dir / "damaged"
    damaged.mkdir()
    for path in good.data_dir.glob("intramuros.db*"):
        path.rename(damaged / path.name)
    subprocess.run(["sh", "-ec", commands()], cwd=good.data_dir, check=True)
    assert good.file.stat().st_mode & 0o777 == 0o600
    found = list(check.examine(good, quiet, deep=True))
    assert [finding.what for finding in found if finding.fix] == []
    assert any("add up to their states" in finding.what for finding in found)
