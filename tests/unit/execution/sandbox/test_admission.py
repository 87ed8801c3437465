import os
import sys

import anyio
import pytest

from intramuros.execution.sandbox.admission import verify
from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.sandbox.cgroups import Group
from intramuros.execution.sandbox.processes import children

pytestmark = pytest.mark.anyio


class Members(Group):
    """Groups in which are whom a test names."""

    def __init__(self, *inside: int) -> None:
        super().__init__(1, {})
        self._inside = set(inside)

    def common(self) -> set[int]:
        return self._inside


async def nothing() -> None:
    pass


async def test_a_sandbox_in_its_groups_may_be_used() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    async with await anyio.open_process([sys.executable, "-c", code]) as outer:
        assert outer.stdin is not None
        with anyio.fail_after(60):
            while not (inner := children(outer.pid)):  # noqa: ASYNC110  of a fork nobody tells
                await anyio.sleep(0.01)
        await verify(Members(outer.pid, *inner), outer.pid, nothing)
        for missing in (Members(outer.pid), Members(*inner), Members()):
            with pytest.raises(SandboxError, match="not in its control groups"):
                await verify(missing, outer.pid, nothing)
        await outer.stdin.send(b"\n")
        await outer.wait()


async def test_what_keeps_it_from_starting_is_told_first() -> None:
    async def fails() -> None:
        raise SandboxError("it did not start")

    with pytest.raises(SandboxError, match="it did not start"):
        await verify(Members(), os.getpid(), fails)


async def test_without_groups_it_only_has_to_be_ready() -> None:
    ready: list[bool] = []

    async def note() -> None:
        ready.append(True)

    await verify(None, os.getpid(), note)
    assert ready == [True]
