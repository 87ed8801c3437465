import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from intramuros.control.store.rekey import KeyFiles
from intramuros.control.upkeep.attached import Place, attach, fingerprint, sealer_of
from intramuros.kernel.errors import OperatorError

pytestmark = pytest.mark.sqlite


def test_where_things_lie() -> None:
    place = Place(Path("/data"))
    assert (place.url, place.file) == ("sqlite:////data/intramuros.db", Path("/data/intramuros.db"))
    assert place.master_key == Path("/data/master-key")
    assert Place(Path("/data"), "sqlite:////x/y").file == Path("/x/y")
    assert Place(Path("/data"), "postgresql://x/y").file is None


def test_it_is_opened_beside_a_server_and_writes_the_record(place: Place) -> None:
    server = KeyFiles(place.master_key)
    with pytest.raises(OperatorError, match="stop the server"):
        attach(place, alone=True)
    opened = attach(place)
    opened.record("installation.backup", by="test", to="x")
    opened.close()
    server.release()
    with closing(sqlite3.connect(place.data_dir / "intramuros.db")) as rows:
        (line,) = rows.execute("SELECT line FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    assert json.loads(line)["fields"] == {"by": "test", "to": "x", "workspace_id": None}
    attach(place, alone=True).close()


def test_nothing_is_made_where_something_is_missing(place: Place, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="there is no database"):
        attach(Place(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()
    place.master_key.unlink()
    with pytest.raises(OperatorError, match=r"there is no master key .*disaster\.md"):
        attach(place)
    assert not place.master_key.exists()


def test_another_key_or_schema_is_refused(place: Place, tmp_path: Path) -> None:
    key = place.master_key.read_text()
    with closing(sqlite3.connect(place.data_dir / "intramuros.db")) as rows, rows:
        rows.execute("UPDATE alembic_version SET version_num = 'x' || version_num")
    with pytest.raises(OperatorError, match="has the schema x"):
        attach(place)
    with closing(sqlite3.connect(place.data_dir / "intramuros.db")) as rows, rows:
        rows.execute("UPDATE alembic_version SET version_num = substr(version_num, 2)")
    place.master_key.write_text("A" * 43 + "=")
    with pytest.raises(OperatorError, match="does not open"):
        attach(place)
    place.master_key.write_text(key)
    attach(place).close()


def test_a_key_has_a_name_that_tells_nothing_of_it(place: Place) -> None:
    name = fingerprint(sealer_of(place.master_key))
    assert len(name) == 32
    assert name == fingerprint(sealer_of(place.master_key))
    place.master_key.write_text("A" * 43 + "=")
    assert fingerprint(sealer_of(place.master_key)) != name
