"""The parts that need no privilege; the whole is run by every integration test."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from intramuros.execution.sandbox import launcher


def test_it_imports_the_standard_library_alone() -> None:
    source = Path(launcher.__file__).read_text()
    assert "intramuros" not in source.split('"""', 2)[2]


def test_descriptors_get_their_numbers_and_all_others_close(tmp_path: Path) -> None:
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import launcher\n"
        "a, b = os.pipe(); c = os.open('/dev/null', os.O_RDWR)\n"
        "launcher._arrange({0: c, 2: 2, 3: b, 5: a, 1: 1})\n"
        "print(sorted(int(n) for n in os.listdir('/proc/self/fd')))\n"
        "os.write(3, b'x'); print(os.read(5, 1))\n"
    )
    folder = str(Path(launcher.__file__).parent)
    argv = [sys.executable, "-I", "-S", "-c", script, folder]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    # The listing itself held the next free number, 4, for a moment.
    assert done.stdout == "[0, 1, 2, 3, 4, 5]\nb'x'\n"


def test_giving_up_root_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *_: None)
    monkeypatch.setattr(os, "getresuid", lambda: (5, 5, 0))
    with pytest.raises(OSError, match="still root"):
        launcher._drop(5, 5)


def test_requests_that_cannot_be_read_are_answered_and_survived() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = [sys.executable, "-I", "-S", launcher.__file__, str(theirs.fileno())]
    with ours, subprocess.Popen(argv, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        ours.settimeout(60)
        for _ in range(2):
            ours.send(b"not json")
            assert "error" in json.loads(ours.recv(1 << 16))
        ours.close()
        assert process.wait(60) == 0


def test_groups_are_thawed_by_either_versions_file_and_forgotten_when_gone(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder, name in ((first, "freezer.state"), (second, "cgroup.freeze")):
        folder.mkdir()
        (folder / name).write_text("")
    groups: set[str] = {str(tmp_path / "gone")}
    launcher._remember(groups, [f"{folder}/cgroup.procs" for folder in (first, second)])
    assert groups == {str(first), str(second)}
    launcher._let_go({*groups, str(tmp_path / "gone since")})
    assert (first / "freezer.state").read_text() == "THAWED"
    assert (second / "cgroup.freeze").read_text() == "0"


def test_a_rehearsal_says_whether_the_host_lets_us() -> None:
    argv = [sys.executable, "-I", "-S", launcher.__file__, "rehearse"]
    if os.geteuid() == 0:
        argv.append("65534")
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0 or done.stderr.startswith("launcher: [Errno ")
    missing = subprocess.run([*argv[:5], "4294967296"], capture_output=True, text=True)
    assert missing.returncode != 0
