import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from intramuros.cli import ssh as module
from intramuros.cli.ssh import config, issue, ssh
from intramuros.execution.ssh.authority import Authority
from intramuros.kernel.errors import OperatorError


@pytest.fixture
def state(tmp_path: Path) -> Path:
    Authority.opened(tmp_path / "state/ssh")
    (tmp_path / "state/ssh/address").write_text("127.0.0.1:2222\n")
    return tmp_path / "state"


def run(*arguments: str) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    app.command()(ssh)
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output, done.exception


def test_the_client_gets_a_key_of_its_own_and_nothing_stays(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def fake(argv: list[str], **_options: object) -> "subprocess.CompletedProcess[str]":
        seen.append(argv)
        folder = Path(argv[2]).parent
        assert {path.name for path in folder.iterdir()} == {
            *("id", "id-cert.pub", "known_hosts", "config"),
        }
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
        return subprocess.CompletedProcess(argv, 3)

    monkeypatch.setattr(module.subprocess, "run", fake)
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    status, _, _ = run("sesn_1", "--state-dir", str(state), "--", "ls", "-l")
    assert status == 3
    assert seen[0][0] == "/usr/bin/ssh"
    assert seen[0][3:] == ["sesn_1", "ls", "-l"]
    assert not Path(seen[0][2]).parent.exists()


def test_other_clients_get_files(state: Path, tmp_path: Path) -> None:
    status, output, _ = run("sesn_1", "--state-dir", str(state), "--write", str(tmp_path / "me"))
    assert status == 0
    assert output == f"ssh -F {tmp_path}/me/config sesn_1\n"
    assert (tmp_path / "me").stat().st_mode & 0o777 == 0o700
    # Again, when the certificate is over.
    before = (tmp_path / "me/id").read_bytes()
    run("sesn_1", "--state-dir", str(state), "--write", str(tmp_path / "me"))
    assert (tmp_path / "me/id").read_bytes() != before


def test_what_is_missing_is_named(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, nobody = run("sesn_1", "--state-dir", str(tmp_path / "nowhere"))
    assert isinstance(nobody, OperatorError)
    assert "--ssh-listen" in nobody.fix
    monkeypatch.setattr(module.shutil, "which", lambda _name: None)
    _, _, no_client = run("sesn_1", "--state-dir", str(state))
    assert isinstance(no_client, OperatorError)
    assert "openssh-client" in no_client.fix
    (state / "ssh/address").unlink()
    _, _, stopped = run("sesn_1", "--state-dir", str(state), "--write", str(tmp_path / "me"))
    assert isinstance(stopped, OperatorError)
    assert "not running" in stopped.problem


def test_files_that_cannot_be_written_are_named(state: Path, tmp_path: Path) -> None:
    authority = Authority.loaded(state / "ssh")
    with pytest.raises(OperatorError, match="cannot write"):
        issue(tmp_path / "none", state / "ssh", authority, "sesn_1", 60)


def test_nothing_of_the_user_s_own_configuration_is_used() -> None:
    text = config(Path("/tmp/a b"), "/very/long/socket", "sesn_1")
    for line in (
        "User sesn_1",
        "StrictHostKeyChecking yes",
        "ForwardAgent no",
        "IdentitiesOnly yes",
    ):
        assert f"    {line}\n" in text
    assert 'IdentityFile "/tmp/a b/id"' in text
    assert text.count("ProxyCommand") == 1
    near = config(Path("/tmp/a"), "[::1]:2222", "sesn_1")
    assert "HostName ::1\n    Port 2222\n" in near
    assert "ProxyCommand" not in near
