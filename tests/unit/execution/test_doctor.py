import os
from pathlib import Path

import pytest

from intramuros.execution import doctor
from intramuros.execution.sandbox.base import Finding, Level


def test_every_finding_that_is_not_ok_has_a_fix_of_one_line(tmp_path: Path) -> None:
    findings = doctor.probe(tmp_path)
    assert findings
    for finding in findings:
        assert "\n" not in finding.what + finding.fix
        assert (finding.level is Level.OK) == (finding.fix == "")


def test_an_unknown_provider_is_a_failure_that_names_the_choices(tmp_path: Path) -> None:
    [finding] = doctor.probe(tmp_path, "nonesuch")
    assert finding.level is Level.FAILURE
    assert "bubblewrap" in finding.fix
    assert not doctor.is_fit([finding])


def test_a_directory_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    finding = doctor.probe_disk(tmp_path / "a" / "b")
    assert finding.level in (Level.OK, Level.WARNING)
    assert str(tmp_path) in finding.what


def test_little_room_warns_and_none_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)

    def fake(free: int):
        values = list(real)
        values[0] = values[1] = 1
        values[4] = free
        return lambda _path: os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", fake(doctor.LOW_BYTES - 1))
    assert doctor.probe_disk(tmp_path).level is Level.WARNING
    monkeypatch.setattr(os, "statvfs", fake(doctor.MINIMUM_BYTES - 1))
    assert doctor.probe_disk(tmp_path).level is Level.FAILURE


def test_a_closed_directory_fails_with_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    finding = doctor.probe_disk(tmp_path)
    assert finding.level is Level.FAILURE
    assert "chown" in finding.fix


def test_warnings_do_not_make_a_host_unfit() -> None:
    assert doctor.is_fit([Finding(Level.WARNING, "slow", "buy"), Finding(Level.OK, "fine")])


def test_what_egress_lacks_is_named_and_keeps_no_worker_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = Finding(Level.WARNING, "sandboxes can have no network here", "allow it")
    monkeypatch.setattr(doctor, "probe_network", lambda: lacking)
    findings = doctor.probe(tmp_path)
    if not any(finding.level is Level.FAILURE for finding in findings):
        assert doctor.is_fit(findings)
    assert lacking in findings


def test_each_provider_is_tried_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def trial(make: object) -> Finding:
        tried.append(make)
        return Finding(Level.FAILURE, "a sandbox does not work here", "report it")

    monkeypatch.setattr(doctor, "probe_for_real", trial)
    found = {report.provider: report for report in doctor.examine(["oci:/no/such", "process", "x"])}
    assert list(found) == ["oci:/no/such", "process", "x"]
    assert not found["oci:/no/such"].works
    assert found["x"].capabilities is None
    assert "choose one of" in found["x"].findings[0].fix
    # What isolates nothing is no goal: it is told, and not tried.
    assert found["process"].works
    assert found["process"].findings[0].level is Level.WARNING
    assert tried == []
    [report] = doctor.examine(["bubblewrap"])
    if len(tried) == 1:
        assert not report.works
        assert report.findings[-1].what == "a sandbox does not work here"
    else:
        assert not doctor.is_fit(report.findings)
