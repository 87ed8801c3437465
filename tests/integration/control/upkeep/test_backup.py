"""Backups: whole or not there at all, and nobody passes off another."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from intramuros.control.store import snapshots
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import blobs as blob_table
from intramuros.control.store.whole import Tell
from intramuros.control.upkeep import backup, manifest
from intramuros.control.upkeep.attached import Place, attach, fingerprint, sealer_of
from intramuros.control.upkeep.backup import BY, back_up, check_backup, check_bytes
from intramuros.control.upkeep.manifest import BadBackup, Manifest
from intramuros.kernel.config import environment
from intramuros.kernel.errors import OperatorError, Unavailable
from tests.fakes.installation import CONTENTS

pytestmark = pytest.mark.sqlite

ROOT = Path(__file__).parents[4]


def quiet(_: str) -> None:
    """Progress of no interest."""


def made_of(place: Place, directory: Path, *, with_blobs: bool = True) -> Manifest:
    source = attach(place)
    try:
        return back_up(source, directory, quiet, with_blobs=with_blobs)
    finally:
        source.close()


def check(directory: Path, key: Path | None) -> Manifest:
    made = manifest.read(directory, None if key is None else sealer_of(key))
    check_bytes(directory, check_backup(directory, made), quiet)
    return made


def keys_of(directory: Path) -> list[str]:
    return [
        json.loads(line)["key"] for line in (directory / manifest.BLOBS).read_text().splitlines()
    ]


def test_a_backup_holds_everything_but_the_key(place: Place, tmp_path: Path) -> None:
    made = made_of(place, tmp_path / "b")
    assert check(tmp_path / "b", place.master_key) == made
    assert made.master_key == fingerprint(sealer_of(place.master_key))
    assert made.blobs == 6
    assert made.rows["events"] == 3
    key = place.master_key.read_bytes().strip()
    for path in (tmp_path / "b").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or manifest.BLOB_DIR in path.parts
        assert path.is_dir() or key not in path.read_bytes()
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700
    with closing(sqlite3.connect(tmp_path / "b" / manifest.DATABASE)) as rows:
        (line,) = rows.execute("SELECT line FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    record = json.loads(line)
    # It was recorded before anything was copied.
    assert (record["kind"], record["fields"]["by"]) == ("installation.backup", BY)
    assert (record["seq"], record["hash"]) == (made.audit_records, made.audit_hash)


def test_what_the_store_has_lost_is_named(place: Place, tmp_path: Path) -> None:
    # The invented rows' files were never there.
    made = made_of(place, tmp_path / "b")
    assert made.lost == ("0/lost", "1/lost", "2/lost")
    check(tmp_path / "b", place.master_key)


def test_without_files(place: Place, tmp_path: Path) -> None:
    made = made_of(place, tmp_path / "b", with_blobs=False)
    assert not (tmp_path / "b" / manifest.BLOB_DIR).exists()
    assert (made.blobs, made.lost, made.with_blobs) == (6, (), False)
    check(tmp_path / "b", place.master_key)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("what", [manifest.DATABASE, manifest.BLOBS, "bytes", "gone"])
def test_damage_is_found(place: Place, tmp_path: Path, what: str) -> None:
    made_of(place, tmp_path / "b")
    if what in ("bytes", "gone"):
        kept = [p for p in (tmp_path / "b" / manifest.BLOB_DIR).rglob("*") if p.is_file()]
        largest = max(kept, key=lambda path: path.stat().st_size)
        assert largest.stat().st_size == len(CONTENTS[0])
        flip(largest) if what == "bytes" else largest.unlink()
    else:
        flip(tmp_path / "b" / what)
    with pytest.raises(BadBackup, match="damaged"):
        check(tmp_path / "b", None)


def test_nobody_without_the_key_passes_off_another(place: Place, tmp_path: Path) -> None:
    made_of(place, tmp_path / "b")
    file = tmp_path / "b" / manifest.MANIFEST
    said = json.loads(file.read_text())
    with closing(sqlite3.connect(tmp_path / "b" / manifest.DATABASE)) as rows, rows:
        rows.execute("UPDATE credentials SET scopes = '[]'")
    content = manifest.content_of(tmp_path / "b" / manifest.DATABASE)
    said["database"] = {"size_bytes": content.size_bytes, "sha256": content.sha256}
    file.write_text(json.dumps(said))
    check(tmp_path / "b", None)
    with pytest.raises(BadBackup, match="was changed"):
        check(tmp_path / "b", place.master_key)
    other = tmp_path / "other-key"
    other.write_text("A" * 43 + "=")
    other.chmod(0o600)
    with pytest.raises(OperatorError, match=f"of the master key {said['master_key']}, not of"):
        check(tmp_path / "b", other)
    with pytest.raises(OperatorError, match="there is no master key"):
        check(tmp_path / "b", tmp_path / "absent")
    file.write_text("{")
    with pytest.raises(BadBackup, match="damaged"):
        check(tmp_path / "b", None)
    file.write_text('{"format": "intramuros backup 2"}')
    with pytest.raises(OperatorError, match="use the version that wrote it"):
        check(tmp_path / "b", None)


# What is done right before the process is killed.
MOMENTS = {
    "files": "backup.snapshots.take",
    "rows": "backup.blob_copies.dump",
    "the manifest": "backup.manifest.write",
}
KILLED = """
import os, signal, sys
from pathlib import Path
from intramuros.control.upkeep import backup
from intramuros.control.upkeep.attached import Place, attach
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
{moment} = die
backup.back_up(attach(Place(Path(sys.argv[1]))), Path(sys.argv[2]), lambda _: None, with_blobs=True)
"""


def killed(program: str, *arguments: Path | str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**environment(), "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == -9, ran.stderr


@pytest.mark.timeout(240)
@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_leaves_no_backup_that_looks_whole(
    place: Place, tmp_path: Path, moment: str
) -> None:
    killed(KILLED.format(moment=MOMENTS[moment]), place.data_dir, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    draft = tmp_path / "b.part"
    with pytest.raises(OperatorError, match="is no backup"):
        manifest.read(draft, None)
    # What it copied is not copied again.
    before = {p: p.stat().st_ino for p in (draft / manifest.BLOB_DIR).rglob("*") if p.is_file()}
    assert len(before) == 3
    made_of(place, tmp_path / "b")
    check(tmp_path / "b", place.master_key)
    after = {p.stat().st_ino for p in (tmp_path / "b").rglob("*") if p.is_file()}
    assert set(before.values()) <= after
    assert not draft.exists()


def test_files_that_are_deleted_meanwhile_are_not_missed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.data_dir / "blobs"
    whole = {path.relative_to(store) for path in store.rglob("*") if path.is_file()}
    one = max(whole, key=lambda path: (store / path).stat().st_size)
    taken: list[Path] = []
    real_held, real_take = backup.blob_copies.held, snapshots.take

    def held(tx: Tx) -> dict[str, Blob]:
        found = real_held(tx)
        if not taken:
            del found[str(one)]  # written since
        return found

    def take(db: Database, file: Path, tell: Tell) -> None:
        real_take(db, file, tell)
        if not taken:
            (store / one).unlink()
            forget = blob_table.delete().where(blob_table.c.key == str(one))
            anyio.run(db.write, lambda tx: tx.execute(forget))
        taken.append(file)

    monkeypatch.setattr(backup.snapshots, "take", take)
    monkeypatch.setattr(backup.blob_copies, "held", held)
    made = made_of(place, tmp_path / "b")
    assert len(taken) == 2
    assert str(one) not in keys_of(tmp_path / "b")
    assert len(made.lost) == 3
    check(tmp_path / "b", place.master_key)
    # Nothing is kept of what nobody refers to.
    kept = tmp_path / "b" / manifest.BLOB_DIR
    assert {p.relative_to(kept) for p in kept.rglob("*") if p.is_file()} == whole - {one}


def test_what_is_in_the_way_is_named(place: Place, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(OperatorError, match="is there already"):
        made_of(place, tmp_path / "b")
    with pytest.raises(OperatorError, match="there is no database"):
        attach(Place(tmp_path / "absent"))
    place.master_key.rename(tmp_path / "elsewhere")
    with pytest.raises(OperatorError, match="there is no master key"):
        attach(place)
    assert not place.master_key.exists()
    (tmp_path / "elsewhere").rename(place.master_key)
    with pytest.raises(OperatorError, match="cannot write"):
        made_of(place, Path("/proc/nowhere/b"))
    with backup._draft(tmp_path / "c"), pytest.raises(OperatorError, match="another backup"):
        made_of(place, tmp_path / "c")


def test_a_disk_that_is_too_small_is_told_before(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage())
    with pytest.raises(OperatorError, match="1000 bytes free"):
        made_of(place, tmp_path / "b")


class _Usage:
    free = 1000


def test_a_damaged_database_makes_no_backup(place: Place, tmp_path: Path) -> None:
    assert place.file is not None
    with closing(sqlite3.connect(place.file)) as rows:
        root = rows.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'memory_versions'"
        ).fetchone()[0]
        size = rows.execute("PRAGMA page_size").fetchone()[0]
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with place.file.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    with pytest.raises((Unavailable, BadBackup), match=r"malformed|damaged"):
        made_of(place, tmp_path / "b")
    assert not (tmp_path / "b").exists()
