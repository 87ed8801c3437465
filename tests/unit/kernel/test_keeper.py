"""Nobody outlives a program, nor a program us: whoever leaves its group, session or parent."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from intramuros.kernel import keeper, programs
from intramuros.kernel.config import clean_environment
from intramuros.kernel.programs import running
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

# Says the pids of: a child, one in a session of its own, one forked twice, one that hears nothing.
FLEEING = """
import os, signal, sys, time
def child(*steps):
    pid = os.fork()
    if pid == 0:
        for step in steps:
            step()
        print(os.getpid(), flush=True)
        time.sleep(600)
        os._exit(0)
def again():
    if os.fork():
        os._exit(0)
def deaf():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
child()
child(os.setsid)
child(os.setsid, again)
child(deaf, os.setsid, again, os.setsid, again)
"""
ENDING = FLEEING + "sys.stdin.readline()\n"
STAYING = FLEEING + "time.sleep(600)\n"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STAYING
# Up to 64, each of which begins again when another ends.
BOMB = """
import os, signal, time
print(os.getpid(), flush=True)
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
while True:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(0.05)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


async def told(pipes: programs.Pipes, count: int) -> list[int]:
    said = b""
    while said.count(b"\n") < count:
        data = await pipes.receive()
        assert data is not None
        said += data
    return [int(line) for line in said.split()]


@pytest.mark.parametrize("text", [ENDING, STAYING, DEAF], ids=["ended", "polite", "deaf"])
async def test_whoever_leaves_ends_with_the_program(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(programs, "GRACE_S", 0.3)
    async with running(python(text), clean_environment()) as pipes:
        pids = await told(pipes, 4)
        assert all(map(alive, pids))
        if text == ENDING:
            await pipes.send(b"\n")
            await pipes.process.wait()
    # No waiting: when the block is left, they are gone.
    assert not any(map(alive, pids))


async def test_a_program_s_own_end_is_told() -> None:
    for text, status in (("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 11)", -11)):
        async with running(python(text), {}) as pipes:
            assert await pipes.process.wait() == status


async def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        async with running(["no-such-program"], {"PATH": str(tmp_path)}):
            raise AssertionError
    with pytest.raises(PermissionError):
        async with running([str(tmp_path / "plain")], {}):
            raise AssertionError


async def test_programs_are_found_by_their_own_path(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("#!/bin/sh\necho $0 $#\n")
    (tmp_path / "here").chmod(0o755)
    async with running(["here", "a", "-b"], {"PATH": str(tmp_path)}) as pipes:
        assert await pipes.receive() == f"{tmp_path}/here 2\n".encode()


LOOK = """
import os
os.close(1)
print(sorted(os.listdir("/proc/self/fd")), file=open("/dev/stderr", "w"))
"""


async def test_it_holds_nothing_of_the_program_s_and_shows_it_nothing_of_ours() -> None:
    async with running(python(LOOK), {}, listen=True) as pipes:
        assert await pipes.receive() is None
        assert b"'4'" not in (await pipes.complaints() or b"'4'")


# The standard library only, so that another user can run it with the system's interpreter.
WORKER = """
import socket, subprocess, sys, time
ours, theirs = socket.socketpair()
argv = [sys.executable, "-I", "-S", sys.argv[1], str(theirs.fileno()), sys.executable, "-c"]
subprocess.Popen([*argv, sys.argv[2]], pass_fds=[theirs.fileno()], start_new_session=True)
theirs.close()
assert ours.recv(16) == b"0"
time.sleep(600)
"""
SYSTEM = Path("/usr/bin/python3")


@pytest.fixture
def readable() -> Iterator[Path]:
    """Our file where every user can read it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(shutil.copy(keeper.__file__, folder))


@pytest.mark.parametrize("user", [None, 65534], ids=["ourselves", "nobody"])
async def test_a_killed_worker_leaves_none_of_them(user: int | None, readable: Path) -> None:
    interpreter = sys.executable
    if user is not None:
        interpreter = str(SYSTEM)
        if os.geteuid() != 0 or not SYSTEM.exists():  # noqa: ASYNC240 - short
            pytest.skip("needs root, who alone can be another, and an interpreter for everybody")
    argv = [interpreter, "-c", WORKER, str(readable), STAYING]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, user=user, env={}) as worker:  # noqa: ASYNC220 - must die without us
        assert worker.stdout
        lines = [await anyio.to_thread.run_sync(worker.stdout.readline) for _ in range(4)]
        pids = [int(line) for line in lines]
        assert all(map(alive, pids))
        worker.kill()
        worker.stdout.close()
    await until(lambda: not any(map(alive, pids)))


async def test_a_program_that_forks_all_the_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "GRACE_S", 0.2)
    async with running(python(BOMB), clean_environment()) as pipes:
        [first] = await told(pipes, 1)
        await until(lambda: len(keeper.descendants(pipes.process.pid)) >= 64)
        below = keeper.descendants(pipes.process.pid)
    assert not any(alive(pid) for pid in [first, *below])


async def test_a_keeper_that_is_killed_takes_its_program_along() -> None:
    async with running(python(STAYING), clean_environment()) as pipes:
        first = keeper.descendants(pipes.process.pid)[0]
        os.kill(pipes.process.pid, signal.SIGKILL)
        await until(lambda: not alive(first))
