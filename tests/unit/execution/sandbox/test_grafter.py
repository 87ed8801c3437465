"""The parts that need no sandbox; the whole is run by tests/integration/execution."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from intramuros.execution.sandbox import grafter


def test_it_imports_the_standard_library_alone() -> None:
    assert "intramuros" not in Path(grafter.__file__).read_text().split('"""', 2)[2]


def test_the_hosts_own_mounts_are_never_changed() -> None:
    ours = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="host's own"):
            grafter.enter(ours)
    finally:
        os.close(ours)


def test_requests_that_cannot_be_served_are_answered_and_survived() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = [sys.executable, "-I", "-S", grafter.__file__, str(theirs.fileno())]
    process = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
    theirs.close()
    ours.settimeout(60)
    mount = {"source": "/nowhere", "target": "/mnt/x", "read_only": True}
    whole = json.dumps({"uid": os.getuid(), "mounts": [mount]}).encode()
    with ours, process, Path("/proc/self/ns/mnt").open() as mounts:
        ours.send(b"not json")
        assert "error" in json.loads(ours.recv(1 << 16))
        ours.send(whole)  # without descriptors
        assert "two descriptors" in json.loads(ours.recv(1 << 16))["error"]
        for wrong in (b"[]", b"{}", whole):
            socket.send_fds(ours, [wrong], [mounts.fileno(), mounts.fileno()])
            answer = json.loads(ours.recv(1 << 16))
            assert "error" in answer
        ours.close()
        assert process.wait(60) == 0
