import socket
from pathlib import Path

import pytest

from intramuros.cli import doctor
from intramuros.cli.doctor import FAILURE, OK, WARNING, examine
from tests.unit.cli.conftest import Run


def test_a_port_in_use_is_a_warning_with_a_fix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = {f.what: f for f in examine(tmp_path, (port,))}
    (finding,) = [f for what, f in found.items() if what.startswith(f"port {port} ")]
    assert finding.level == WARNING
    assert "stop what uses it" in finding.fix


def test_every_problem_comes_with_a_fix(tmp_path: Path) -> None:
    for finding in examine(tmp_path / "absent", (0,)):
        assert finding.level == OK or finding.fix


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_EXTRAS", {"server": ("no_such_package",)})
    (finding,) = [f for f in examine(tmp_path, ()) if "no_such_package" in f.what]
    assert (finding.level, finding.fix) == (WARNING, "install intramuros[server] to run it here")


def test_the_command_says_whether_the_host_is_fit(run_process: Run) -> None:
    ran = run_process("doctor", "--port", "0", "--edge-port", "0")
    failed = [line for line in ran.out.splitlines() if line.startswith("✗")]
    assert ran.status == (1 if failed else 0)
    assert FAILURE not in ran.out
    assert "Python 3" in ran.out
