import json
import socket
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest

from intramuros.cli import doctor
from intramuros.cli.doctor import FAILURE, OK, WARNING, NotFit, examine
from intramuros.execution.doctor import Report
from intramuros.execution.sandbox.base import Finding, Level
from intramuros.kernel.timing import SystemClock
from intramuros.tunnel.certs import make_ca, make_server_certificate
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


@pytest.mark.timeout(240)
def test_the_command_says_whether_the_host_is_fit(run_process: Run) -> None:
    ran = run_process("doctor", "--port", "0", "--edge-port", "0")
    failed = [line for line in ran.out.splitlines() if line.startswith("✗")]
    assert ran.status == (1 if failed else 0)
    assert FAILURE not in ran.out
    assert "Python 3" in ran.out


def pem(path: Path, days: float) -> None:
    """A certificate that is good for so many days from now on."""
    then = SystemClock().now() - timedelta(days=30)
    good = timedelta(days=30 + days)
    made = make_server_certificate(make_ca("CA", then), ["*.x.test"], then, good)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.cert_pem)


def test_certificates_are_told_before_they_expire(tmp_path: Path) -> None:
    assert list(doctor.pems(tmp_path, None)) == []
    pem(tmp_path / "edge" / "cert.pem", 400)
    pem(tmp_path / "gateway" / "tls.crt", -1)
    pem(tmp_path / "gateway" / "ca.crt", 5)
    (tmp_path / "edge" / "ca.pem").write_text("no certificate")
    levels = [(f.level, f.fix) for f in doctor.pems(tmp_path, None)]
    assert [level for level, _ in levels] == [FAILURE, OK, WARNING, FAILURE]
    assert f"gateway renew --dir {tmp_path / 'gateway'}" in levels[3][1]
    assert "gateway init" in levels[2][1]
    assert "remove ca.pem" in levels[0][1]
    assert len(list(doctor.pems(tmp_path, tmp_path / "elsewhere"))) == 2


def test_an_expired_certificate_fails_and_renewing_cures_it(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "gateway"
    now = SystemClock().now()
    ca = make_ca("CA", now)
    then = now - timedelta(days=90)
    old = make_server_certificate(ca, ["*.x.test"], then, timedelta(days=89))
    place.mkdir()
    for name, data in {
        "ca.crt": ca.cert_pem,
        "ca.key": ca.key_pem,
        "tls.crt": old.cert_pem,
        "tls.key": old.key_pem,
        "tunnel-domain": b"x.test",
    }.items():
        (place / name).write_bytes(data)
        (place / name).chmod(0o600)
    assert [f.level for f in doctor.pems(tmp_path, None)] == [OK, FAILURE]
    renewed = run("gateway", "renew", "--dir", place)
    assert renewed.status == 0, renewed.err
    assert [f.level for f in doctor.pems(tmp_path, None)] == [OK, OK]
