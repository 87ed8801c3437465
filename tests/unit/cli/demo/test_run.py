from pathlib import Path

import pytest

from intramuros.cli.demo import run
from intramuros.cli.demo.data import Source
from intramuros.cli.demo.run import Wishes, _directory, _secret, run_demo
from intramuros.control.model.scripted import load_script
from intramuros.kernel.errors import OperatorError


def test_a_directory_is_made_and_never_taken(tmp_path: Path) -> None:
    made = _directory(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o077 == 0
    with pytest.raises(OperatorError, match="exists already"):
        _directory(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot make"):
        _directory(tmp_path / "file" / "x")


def test_the_secret_part_of_a_key_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----\n")
    assert _secret(file) == "MIGHAgEA"
    file.write_text("sk-x\n")
    assert _secret(file) == "sk-x"


@pytest.mark.parametrize("name", [run.SCRIPTED, run.PROBE])
def test_the_scripts_are_scripts(name: str) -> None:
    script = load_script(run.SCRIPTS / f"{name.removeprefix('scripted/')}.yaml")
    assert len(script.steps) > 1


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(({"suffolk": "1", "action": "1"},), "", "0" * 64, "0")
    monkeypatch.setattr(run, "load_source", lambda: source)
    monkeypatch.setattr(run, "find_software", lambda: tmp_path)

    def broken(*_: object) -> None:
        raise OperatorError("disk full", "free some")

    monkeypatch.setattr(run, "lay_out", broken)
    with pytest.raises((OperatorError, ExceptionGroup)):
        run_demo(Wishes(tmp_path / "demo", False, None, None, None))
    assert not (tmp_path / "demo").exists()
