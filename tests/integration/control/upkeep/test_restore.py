"""Restores: into an empty installation of the same key, on either engine, or not at all."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from sqlalchemy import text

from intramuros.control.identity.audit import read_lines
from intramuros.control.identity.installation import open_installation
from intramuros.control.store import snapshots, whole
from intramuros.control.store.db import Database
from intramuros.control.store.rekey import KeyFiles
from intramuros.control.store.whole import Sum
from intramuros.control.upkeep import manifest, restore
from intramuros.control.upkeep.attached import Place, attach
from intramuros.control.upkeep.manifest import BadBackup
from intramuros.control.upkeep.restore import BY
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.audit import verify
from tests.integration.control.upkeep.conftest import Fresh
from tests.integration.control.upkeep.test_backup import flip, killed, made_of, quiet

pytestmark = pytest.mark.sqlite


def sums_of(place: Place) -> dict[str, Sum]:
    """What an installation holds; the record of what was done to it is left out."""
    db = Database.open(place.url)
    try:
        with snapshots.reading(db) as connection:
            found = whole.sums(connection, quiet)
    finally:
        db.close()
    return {name: one for name, one in found.items() if name not in ("audit", "activities")}


def lines_of(place: Place) -> list[str]:
    db = Database.open(place.url)
    try:
        return anyio.run(db.read, lambda tx: list(read_lines(tx)))
    finally:
        db.close()


def files_of(data_dir: Path) -> dict[str, bytes]:
    root = data_dir / "blobs"
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def check_restored(source: Place, target: Place) -> None:
    before = lines_of(source)
    after = lines_of(target)
    assert verify(after).seq == len(after)
    assert after[: len(before)] == before
    last = json.loads(after[-1])
    assert (last["kind"], last["fields"]["by"]) == ("installation.restore", BY)
    assert last["fields"]["audit_hash"] == json.loads(before[-1])["hash"]
    assert sums_of(target) == sums_of(source)
    assert files_of(target.data_dir) == files_of(source.data_dir)
    attach(target).close()
    assert not list(target.data_dir.glob("*.restoring*"))


def test_a_restored_installation_is_the_same(place: Place, tmp_path: Path, fresh: Fresh) -> None:
    made_of(place, tmp_path / "b")
    target = Place(fresh("new"))
    done = restore.restore(tmp_path / "b", target, quiet)
    assert done.lost == ("0/lost", "1/lost", "2/lost")
    check_restored(place, target)
    assert target.file is not None
    assert target.file.stat().st_mode & 0o777 == 0o600
    # Once more would overwrite it.
    with pytest.raises(OperatorError, match="is there already"):
        restore.restore(tmp_path / "b", target, quiet)
    check_restored(place, target)


@pytest.mark.timeout(240)
def test_from_sqlite_to_postgresql_and_back(
    place: Place, tmp_path: Path, fresh: Fresh, empty_url: str
) -> None:
    made_of(place, tmp_path / "b")
    there = Place(fresh("there"), empty_url)
    restore.restore(tmp_path / "b", there, quiet)
    check_restored(place, there)
    with pytest.raises(OperatorError, match="the database is not empty"):
        restore.restore(tmp_path / "b", there, quiet)
    made = made_of(there, tmp_path / "c")
    assert made.engine == "postgresql"
    back = Place(fresh("back"))
    restore.restore(tmp_path / "c", back, quiet)
    check_restored(there, back)
    assert sums_of(back) == sums_of(place)


def test_files_may_be_kept_elsewhere(place: Place, tmp_path: Path, fresh: Fresh) -> None:
    made_of(place, tmp_path / "b", with_blobs=False)
    store = f"file://{place.data_dir}/blobs"
    done = restore.restore(tmp_path / "b", Place(fresh("new"), None, store), quiet)
    assert done.lost == ("0/lost", "1/lost", "2/lost")
    assert sums_of(Place(tmp_path / "new")) == sums_of(place)


@pytest.mark.parametrize("what", [manifest.DATABASE, manifest.BLOBS, manifest.MANIFEST, "bytes"])
def test_what_is_damaged_is_not_restored(
    place: Place, tmp_path: Path, fresh: Fresh, what: str
) -> None:
    made_of(place, tmp_path / "b")
    if what == "bytes":
        kept = [p for p in (tmp_path / "b" / manifest.BLOB_DIR).rglob("*") if p.is_file()]
        flip(max(kept, key=lambda path: path.stat().st_size))
    else:
        flip(tmp_path / "b" / what)
    target = Place(fresh("new"))
    with pytest.raises(BadBackup, match=r"damaged|was changed"):
        restore.restore(tmp_path / "b", target, quiet)
    assert target.file is not None
    assert not target.file.exists()


def test_what_is_in_the_way_is_named(place: Place, tmp_path: Path, fresh: Fresh) -> None:
    made_of(place, tmp_path / "b")
    (tmp_path / "keyless").mkdir()
    with pytest.raises(OperatorError, match="there is no master key"):
        restore.restore(tmp_path / "b", Place(tmp_path / "keyless"), quiet)
    other = fresh("other")
    (other / "master-key").write_text("A" * 43 + "=")
    with pytest.raises(OperatorError, match="put that key into the data directory"):
        restore.restore(tmp_path / "b", Place(other), quiet)
    new = Place(fresh("new"))
    with pytest.raises(OperatorError, match="is no backup"):
        restore.restore(tmp_path, new, quiet)
    server = KeyFiles(new.master_key)
    with pytest.raises(OperatorError, match="stop the server"):
        restore.restore(tmp_path / "b", new, quiet)
    server.release()
    restore.restore(tmp_path / "b", new, quiet)


def test_what_a_removed_database_has_left_is_not_mixed_in(
    place: Place, tmp_path: Path, fresh: Fresh
) -> None:
    made_of(place, tmp_path / "b")
    assert place.file is not None
    # A server that was killed leaves its newest rows beside the file, and somebody removes that.
    with closing(sqlite3.connect(place.file)) as rows:
        rows.execute("PRAGMA wal_autocheckpoint=0")
        rows.execute("CREATE TABLE newest AS SELECT * FROM audit")
        rows.commit()
        newest = place.file.with_name(place.file.name + "-wal").read_bytes()
    target = Place(fresh("new"))
    assert target.file is not None
    left = target.file.with_name(target.file.name + "-wal")
    left.write_bytes(newest)
    with pytest.raises(OperatorError, match="newest rows of a database"):
        restore.restore(tmp_path / "b", target, quiet)
    assert (left.read_bytes(), target.file.exists()) == (newest, False)
    left.rename(tmp_path / "elsewhere")
    restore.restore(tmp_path / "b", target, quiet)
    check_restored(place, target)


def test_a_backup_of_a_newer_version_is_refused(place: Place, tmp_path: Path, fresh: Fresh) -> None:
    assert place.file is not None
    made_of(place, tmp_path / "b")
    with closing(sqlite3.connect(tmp_path / "b" / manifest.DATABASE)) as rows, rows:
        rows.execute("UPDATE alembic_version SET version_num = '9999'")
    sealer = attach(place).sealer
    said = json.loads((tmp_path / "b" / manifest.MANIFEST).read_text())
    content = manifest.content_of(tmp_path / "b" / manifest.DATABASE)
    said |= {"database": {"size_bytes": content.size_bytes, "sha256": content.sha256}}
    said |= {"revision": "9999"}
    manifest.write(tmp_path / "b", manifest._parsed(_without_seal(said)), sealer)
    with pytest.raises(OperatorError, match="start the version that wrote it, or a newer one"):
        restore.restore(tmp_path / "b", Place(fresh("new")), quiet)


def _without_seal(said: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in said.items() if key not in ("seal", "format")}


MOMENTS = {
    "the files": "restore._put_blobs",
    "the place": "restore.snapshots.synced",
}
KILLED = """
import os, signal, sys
from pathlib import Path
from intramuros.control.upkeep import restore
from intramuros.control.upkeep.attached import Place
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
{moment} = die
url = sys.argv[3] if len(sys.argv) > 3 else None
restore.restore(Path(sys.argv[1]), Place(Path(sys.argv[2]), url), lambda _: None)
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_is_seen_and_made_good(
    place: Place, tmp_path: Path, fresh: Fresh, moment: str
) -> None:
    made_of(place, tmp_path / "b")
    target = Place(fresh("new"))
    killed(KILLED.format(moment=MOMENTS[moment]), tmp_path / "b", target.data_dir)
    with pytest.raises(OperatorError, match="is under way or was broken off"):
        anyio.run(open_installation, target.data_dir)
    assert target.file is not None
    assert not target.file.exists()
    restore.restore(tmp_path / "b", target, quiet)
    check_restored(place, target)


@pytest.mark.timeout(240)
def test_kill_9_on_postgresql_leaves_no_row(
    place: Place, tmp_path: Path, fresh: Fresh, empty_url: str
) -> None:
    made_of(place, tmp_path / "b")
    target = Place(fresh("new"), empty_url)
    killed(KILLED.format(moment="restore.check_same"), tmp_path / "b", target.data_dir, empty_url)
    db = Database.open(empty_url)
    with db.engine.connect() as connection:
        assert whole.occupied(connection) is None
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
    db.close()
    with pytest.raises(OperatorError, match="was broken off"):
        anyio.run(open_installation, target.data_dir, empty_url)
    restore.restore(tmp_path / "b", target, quiet)
    check_restored(place, target)
