import json
import socket
from contextlib import nullcontext
from pathlib import Path

import pytest

from intramuros.cli import doctor
from intramuros.cli.doctor import FAILURE, OK, WARNING, NotFit, examine
from intramuros.execution.doctor import Report
from intramuros.execution.sandbox.base import Finding, Level
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


def report(provider: str, *findings: Finding) -> Report:
    works = all(finding.level is not Level.FAILURE for finding in findings)
    return Report(provider, works, list(findings), None)


LACKS = Finding(Level.FAILURE, "runc is not installed", "install it")
WORKS = Finding(Level.OK, "a sandbox answered after 9 ms")


def test_only_what_the_default_provider_lacks_is_a_failure() -> None:
    told = list(doctor._told(report("oci", WORKS, LACKS)))
    assert [(one.level, one.what) for one in told] == [
        (WARNING, "sandbox oci: runc is not installed")
    ]
    told = list(doctor._told(report("bubblewrap", WORKS, LACKS)))
    assert [one.level for one in told] == [OK, FAILURE]
    [one] = doctor._told(report("gvisor", WORKS))
    assert (one.level, one.what) == (OK, "sandbox gvisor: a sandbox answered after 9 ms")


@pytest.mark.parametrize("fit", [True, False])
def test_programs_get_json(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fit: bool,
) -> None:
    reports = [report("oci", LACKS), report("bubblewrap", WORKS if fit else LACKS)]
    monkeypatch.setattr(doctor, "_reports", lambda: iter(reports))
    with nullcontext() if fit else pytest.raises(NotFit):
        doctor.doctor(data_dir=tmp_path, port=0, edge_port=0, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["fit"] is fit
    assert [one["provider"] for one in told["providers"]] == ["oci", "bubblewrap"]
    assert told["providers"][0]["findings"] == [
        {"level": "failure", "what": LACKS.what, "fix": LACKS.fix}
    ]
    assert any(one["what"].startswith("Python 3") for one in told["findings"])


@pytest.mark.timeout(60)
def test_the_command_says_whether_the_host_is_fit(run_process: Run) -> None:
    ran = run_process("doctor", "--port", "0", "--edge-port", "0")
    failed = [line for line in ran.out.splitlines() if line.startswith("✗")]
    assert ran.status == (1 if failed else 0)
    assert FAILURE not in ran.out
    assert "Python 3" in ran.out
