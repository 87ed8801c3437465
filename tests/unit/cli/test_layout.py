import stat
from pathlib import Path

import pytest

from intramuros.cli.layout import Layout, locked
from intramuros.kernel.errors import OperatorError


def test_directories_are_private(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "a" / "data")
    layout.create()
    layout.create()
    for directory in (layout.root, layout.edge, layout.worker, layout.gateway, layout.run):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="--data-dir"):
        Layout(tmp_path / "file" / "data").create()


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    with locked(layout), pytest.raises(OperatorError, match="in use"), locked(layout):
        pass
    with locked(layout):
        pass


def test_address_and_records_if_there(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    assert layout.address() is None
    assert layout.audit_files() == {}
    (layout.run / "address").write_text("http://127.0.0.1:1\n")
    (layout.worker / "audit.jsonl").write_text("")
    assert layout.address() == "http://127.0.0.1:1"
    assert list(layout.audit_files()) == ["worker"]
