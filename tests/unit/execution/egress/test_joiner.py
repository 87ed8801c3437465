"""The parts that need no sandbox; the whole is run by every integration test of egress."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from intramuros.execution.egress import joiner


def test_it_imports_the_standard_library_alone() -> None:
    source = Path(joiner.__file__).read_text()
    assert "intramuros" not in source.split('"""', 2)[2]


def test_the_hosts_own_network_is_never_joined() -> None:
    ours = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="host's own"):
            joiner.join(ours)
    finally:
        os.close(ours)


def test_what_is_no_network_is_not_joined(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError):
        joiner.join(file.fileno())


@pytest.fixture
def asked() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = [sys.executable, "-I", "-S", joiner.__file__, str(theirs.fileno())]
    process = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
    theirs.close()
    ours.settimeout(60)
    return ours, process


def test_requests_that_cannot_be_served_are_answered_and_survived(
    asked: tuple[socket.socket, "subprocess.Popen[bytes]"],
) -> None:
    ours, process = asked
    request = {"network": ["198.18.0.0", 15], "resolver": "198.18.0.1", "ports": [80]}
    with ours, process, Path("/proc/self/ns/net").open() as network:
        ours.send(b"not json")
        assert "error" in json.loads(ours.recv(1 << 16))
        ours.send(json.dumps(request).encode())  # without a descriptor
        assert "one descriptor" in json.loads(ours.recv(1 << 16))["error"]
        for wrong in (b"[]", b"{}", json.dumps(request).encode()):
            socket.send_fds(ours, [wrong], [network.fileno()])
            answer, fds, _, _ = socket.recv_fds(ours, 1 << 16, 8)
            assert "error" in json.loads(answer)
            assert fds == []
        ours.close()
        assert process.wait(60) == 0


def test_a_rehearsal_says_whether_the_host_lets_us() -> None:
    argv = [sys.executable, "-I", "-S", joiner.__file__, "rehearse"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode in (0, 1)
    assert (done.returncode == 0) == (done.stderr == "")
    assert done.returncode == 0 or done.stderr.startswith("joiner: ")
