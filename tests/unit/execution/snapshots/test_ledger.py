from pathlib import Path

import pytest

from intramuros.execution.snapshots.ledger import Entry, Ledger


def test_entries_are_written_whole_and_read_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "awake")
    assert ledger.read("../../etc/passwd") is None
    for entry in (Entry(1, False), Entry(1, True, "told ü"), Entry(2, True)):
        ledger.write("../../etc/passwd", entry)
        assert Ledger(tmp_path / "awake").read("../../etc/passwd") == entry
    assert ledger.read("another") is None
    ledger.remove("../../etc/passwd")
    ledger.remove("../../etc/passwd")
    assert list((tmp_path / "awake").iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"number": 1}', '{"x": 1}'])
def test_what_cannot_be_read_is_not_there(tmp_path: Path, content: str) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("s", Entry(1, True))
    [path] = tmp_path.iterdir()
    path.write_text(content)
    assert ledger.read("s") is None
