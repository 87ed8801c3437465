import socket
from pathlib import Path

import pytest

from intramuros.cli.demo import perimeter
from intramuros.cli.demo.data import Perimeter
from intramuros.kernel.errors import OperatorError


def installed(directory: Path) -> Path:
    (directory / "bin").mkdir(parents=True)
    for name in ("mcp-proxy", "mcp-server-sqlite"):
        (directory / "bin" / name).write_text("")
    return directory


def test_named_software_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRAMUROS_DEMO_UPSTREAM", str(installed(tmp_path / "venv")))
    program = perimeter.private_system(
        Perimeter(tmp_path, tmp_path / "d.db"), 1, tmp_path / "bank.log"
    )
    assert program.argv[0] == str(tmp_path / "venv" / "bin" / "mcp-proxy")
    assert program.argv[1:3] == ("--host", "127.0.0.1")
    assert program.argv[-1] == str(tmp_path / "d.db")


def test_missing_software_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRAMUROS_DEMO_UPSTREAM", str(tmp_path))
    with pytest.raises(OperatorError, match="make upstream"):
        perimeter.find_software()
    monkeypatch.delenv("INTRAMUROS_DEMO_UPSTREAM")
    monkeypatch.setattr(perimeter, "_CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OperatorError, match="INTRAMUROS_DEMO_UPSTREAM"):
        perimeter.find_software()
    installed(tmp_path / ".venv-upstream")
    assert perimeter.find_software() == tmp_path / ".venv-upstream" / "bin"


def test_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert perimeter.answers("127.0.0.1", port)
    assert not perimeter.answers("127.0.0.1", port)
