import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from intramuros.execution.egress import joiner, netns
from intramuros.execution.sandbox.base import RESOLVER, Level, SandboxError
from intramuros.execution.sandbox.records import identify, is_alive

pytestmark = pytest.mark.anyio

# Makes a network as a sandbox has it, tells so, and then looks up a service from within.
INSIDE = """
import os, socket, sys
import joiner
joiner._check(joiner._libc.unshare(joiner._CLONE_NEWNET | FLAGS), "unshare")
print("ready", flush=True)
sys.stdin.readline()
for address, port in ((sys.argv[2], 80), (sys.argv[2], 81)):
    try:
        with socket.create_connection((address, port), 5) as made:
            print(made.recv(100).decode(), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def joinable() -> None:
    found = netns.probe()
    if found.level is not Level.OK:
        pytest.skip(f"{found.what}: {found.fix}")


@pytest.fixture
async def made() -> AsyncIterator[netns.Joiner]:
    helper = netns.Joiner()
    yield helper
    helper.close()


def start_inside(target: str) -> "subprocess.Popen[str]":
    flags = "0" if os.geteuid() == 0 else "joiner._CLONE_NEWUSER"
    folder = str(Path(joiner.__file__).parent)
    code = f"import sys; sys.path.insert(0, sys.argv[1])\n{INSIDE}"
    process = subprocess.Popen(
        [sys.executable, "-c", code.replace("| FLAGS", f"| {flags}"), folder, target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


async def test_sockets_of_another_network_are_ours(made: netns.Joiner, joinable: None) -> None:
    with start_inside("198.19.7.7") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        network = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
        opened = await made.open(network, {80, 443})
        # A second time they are taken: one capture for one sandbox.
        with pytest.raises(SandboxError, match="in use"):
            await made.open(network, {80, 443})
        os.close(network)
        assert set(opened.streams) == {80, 443}
        assert opened.datagrams.getsockname() == (RESOLVER, 53)
        assert opened.names.getsockname() == (RESOLVER, 53)
        assert all(not sock.get_inheritable() for sock in opened.streams.values())
        opened.streams[80].setblocking(True)
        opened.streams[80].settimeout(60)
        process.stdin.write("go\n")
        process.stdin.flush()
        caught, _ = opened.streams[80].accept()
        with caught:
            assert caught.getsockname() == ("198.19.7.7", 80)
            caught.sendall(b"hello")
        assert process.stdout.readline() == "hello\n"
        assert process.stdout.readline() == "ConnectionRefusedError\n"
        opened.close()
        opened.close()


async def test_what_cannot_be_joined_is_said_and_the_next_is_served(
    made: netns.Joiner, joinable: None
) -> None:
    ours = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        for _ in range(2):
            with pytest.raises(SandboxError, match="host's own"):
                await made.open(ours, {80})
    finally:
        os.close(ours)


async def test_a_helper_that_was_killed_is_started_again(
    made: netns.Joiner, joinable: None
) -> None:
    with start_inside("198.19.7.7") as process:
        network = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
        first = await made.open(network, {80})
        first.close()
        assert made._process is not None
        made._process.kill()
        made._process.wait()
        (await made.open(network, {80})).close()
        os.close(network)
        process.kill()


async def test_a_helper_that_says_nothing_is_not_waited_for(
    made: netns.Joiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns, "_ANSWER_S", 0.2)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    monkeypatch.setattr(made, "_ensure", lambda: ours)
    network = os.open("/proc/self/ns/net", os.O_RDONLY)
    with ours, theirs, pytest.raises(SandboxError, match="cannot be joined"):
        await made.open(network, {80})
    os.close(network)


async def test_ports_are_few(made: netns.Joiner) -> None:
    with pytest.raises(SandboxError, match="64 ports"):
        await made.open(0, range(1000, 1065))


def test_the_probe_has_a_fix_when_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    found = netns.probe()
    assert found.level is Level.WARNING
    assert found.fix


KILLED = """
import anyio, os
from intramuros.execution.egress.netns import Joiner
async def main():
    helper = Joiner()
    helper._ensure()
    print(helper._process.pid, flush=True)
    await anyio.sleep(60)
anyio.run(main)
"""


def start_killed() -> "subprocess.Popen[str]":
    source = {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    argv = [sys.executable, "-c", KILLED]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=source)


async def test_a_helper_dies_with_a_worker_that_is_killed() -> None:
    with start_killed() as worker:
        assert worker.stdout is not None
        helper = identify(int(worker.stdout.readline()))
        assert helper is not None
        worker.kill()
        worker.wait()
        with anyio.fail_after(60):
            while is_alive(helper):  # noqa: ASYNC110 - bounded
                await anyio.sleep(0.01)
