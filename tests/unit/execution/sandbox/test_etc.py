from pathlib import Path

import pytest

from intramuros.execution.sandbox import etc as module
from intramuros.execution.sandbox.etc import Etc
from intramuros.execution.sandbox.rootfs import MADE_UP, RESOLVING


@pytest.fixture
def host(tmp_path: Path) -> Path:
    made = tmp_path / "host"
    (made / "ssl/certs").mkdir(parents=True)
    (made / "ssl/certs/ca.pem").write_text("public")
    (made / "ssl/certs/link.pem").symlink_to("ca.pem")
    (made / "ssl/certs/key.pem").write_text("private")
    (made / "ssl/certs/key.pem").chmod(0o640)
    (made / "ssl/certs/inner").mkdir(mode=0o700)
    (made / "ssl/private").mkdir()
    (made / "shadow").write_text("root:secret")
    (made / "services").write_text("ssh 22/tcp")
    (made / "protocols").write_text("closed")
    (made / "protocols").chmod(0o600)
    (made / "localtime").symlink_to(made / "services")
    return made


@pytest.fixture
def etc(tmp_path: Path, host: Path) -> Etc:
    (tmp_path / "runtime").mkdir()
    return Etc(tmp_path / "runtime", host)


def shown(etc: Etc, *, resolving: bool = False, trusting: bool = False) -> Path:
    found = etc.prepare(resolving=resolving, trusting=trusting)
    assert found is not None
    return found / "etc"


def test_it_holds_what_is_public_and_what_is_made_up(etc: Etc) -> None:
    place = shown(etc)
    assert sorted(path.name for path in place.iterdir()) == sorted(
        [*MADE_UP, "localtime", "services", "ssl"]
    )
    assert (place / "passwd").read_text() == MADE_UP["passwd"]
    assert (place / "localtime").read_text() == "ssh 22/tcp", "a link's file, not the link"
    assert sorted(path.name for path in (place / "ssl/certs").iterdir()) == ["ca.pem", "link.pem"]
    assert (place / "ssl/certs/link.pem").readlink() == Path("ca.pem")
    assert not (place / "ssl/private").exists()
    modes = {path.stat().st_mode & 0o777 for path in place.rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_names_and_trust_have_one_of_their_own(etc: Etc) -> None:
    plain, full = shown(etc), shown(etc, resolving=True, trusting=True)
    assert (plain / "resolv.conf").read_text() == ""
    assert (full / "resolv.conf").read_text() == RESOLVING["resolv.conf"]
    assert not (plain / "ca-bundle.pem").exists()
    assert (full / "ca-bundle.pem").read_bytes() == b"", "something to be mounted over"


def test_it_is_made_once_and_again_when_the_host_changes(etc: Etc, host: Path) -> None:
    first = shown(etc)
    assert shown(etc) == first
    fresh = host / "services.new"
    fresh.write_text("ssh 23/tcp")
    fresh.rename(host / "services")
    second = shown(etc)
    assert (second / "services").read_text() == "ssh 23/tcp"
    assert (first / "services").read_text() == "ssh 22/tcp", "who has it keeps it"
    (host / "ssl/certs/new.pem").write_text("new")
    assert (shown(etc) / "ssl/certs/new.pem").exists()
    (host / "mime.types").write_text("text/plain txt")
    assert (shown(etc) / "mime.types").exists()


def test_another_worker_s_is_used(etc: Etc, tmp_path: Path, host: Path) -> None:
    assert shown(Etc(tmp_path / "runtime", host)) == shown(etc)
    assert [path for path in (tmp_path / "runtime").iterdir() if "new" in path.name] == []


def test_what_cannot_be_copied_is_shown_part_by_part(
    etc: Etc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 3)
    assert etc.prepare(resolving=False, trusting=False) is None
    (tmp_path / "runtime").rmdir()
    monkeypatch.undo()
    assert etc.prepare(resolving=False, trusting=False) is None
