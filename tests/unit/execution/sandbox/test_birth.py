"""The descriptors and the process of a sandbox that does not come up are given back."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from intramuros.execution.sandbox import birth
from intramuros.execution.sandbox.base import SandboxError


def held() -> set[Path]:
    return {path for path in Path("/proc/self/fd").iterdir() if path.exists()}


@pytest.mark.anyio
async def test_what_is_sent_holds_its_contents_and_only_our_end_stays() -> None:
    before = held()
    with birth.ends(b"one", b"two") as ends:
        assert [os.read(fd, 9) for fd in ends.sent[3:]] == [b"one", b"two"]
        assert ends.sent[:2] == [ends.theirs.fileno(), ends.errors]
        ends.handed()
    assert not ends.channel.closed
    assert len(held()) == len(before) + 1
    ends.channel.close()
    assert held() == before


@pytest.mark.parametrize("failing", range(4))
@pytest.mark.anyio
async def test_nothing_stays_when_the_host_gives_no_more_descriptors(
    monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    real, calls = os.memfd_create, iter(range(9))

    def memfd_create(name: str) -> int:
        if next(calls) == failing:
            raise OSError(24, "Too many open files")
        return real(name)

    monkeypatch.setattr(os, "memfd_create", memfd_create)
    before = held()
    with pytest.raises((OSError, SandboxError), match=r"Too many|given up"), birth.ends(b"1", b"2"):
        raise OSError("given up")
    assert held() == before


def test_an_unborn_process_ends_with_its_descriptor() -> None:
    process = subprocess.Popen(["/bin/sleep", "600"])
    before = held()
    pidfd = os.pidfd_open(process.pid)
    with pytest.raises(RuntimeError), birth.unborn(pidfd):
        raise RuntimeError
    assert process.wait(60) == -signal.SIGKILL
    assert held() == before


def test_one_that_is_born_is_left_alone() -> None:
    process = subprocess.Popen(["/bin/sleep", "600"])
    try:
        pidfd = os.pidfd_open(process.pid)
        with birth.unborn(pidfd):
            pass
        os.close(pidfd)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
