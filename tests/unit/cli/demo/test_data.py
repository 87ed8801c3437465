import csv
import sqlite3
from contextlib import closing
from importlib import metadata
from pathlib import Path

import pytest

from intramuros.cli.demo import data
from intramuros.cli.demo.data import DECISION_COLUMNS, Source, lay_out, load_source
from intramuros.kernel.errors import OperatorError


def have_data() -> bool:
    try:
        metadata.distribution(data.PACKAGE)
    except metadata.PackageNotFoundError:
        return False
    return True


ROWS = (
    {"suffolk": "1", "obrat": "30", "action": "3", "reject": "1", "approve": "0", "typur": "0"},
    {"suffolk": "0", "obrat": "", "action": "1", "reject": "0", "approve": "1", "typur": "9"},
)
SOURCE = Source(ROWS, "| obrat | other oblgs,  % total inc |\n", "0" * 64, "0.5.0")


def test_what_was_decided_is_in_the_database_alone(tmp_path: Path) -> None:
    perimeter = lay_out(SOURCE, tmp_path / "p")
    lines = {}
    for file in perimeter.files.glob("*.csv"):
        with file.open(newline="") as stream:
            lines |= {row.pop("application_id"): row for row in csv.DictReader(stream)}
    assert lines == {"1": {"suffolk": "1", "obrat": "30"}, "2": {"suffolk": "0", "obrat": ""}}
    text = "".join(f.read_text() for f in perimeter.files.iterdir())
    assert not any(f"`{column}`" in text for column in DECISION_COLUMNS)
    assert "* `obrat`: other oblgs,  % total inc" in text
    with closing(sqlite3.connect(perimeter.database)) as connection:
        found = connection.execute("SELECT application_id, action FROM decisions").fetchall()
    assert found == [(1, 3), (2, 1)]


def test_a_missing_package_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PACKAGE", "no-such-package")
    with pytest.raises(OperatorError, match="make upstream"):
        load_source()


@pytest.mark.skipif(not have_data(), reason="NO DEMO DATA: run `make upstream`")
def test_the_package_has_what_we_say_it_has() -> None:
    source = load_source()
    assert len(source.rows) == 1989
    assert sum(row["action"] == "3" for row in source.rows) == 244
    assert all((row["action"] == "3") == (row["reject"] == "1") for row in source.rows)
    assert set(DECISION_COLUMNS) <= set(source.rows[0])
