import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from intramuros.execution.sandbox.admission import admit
from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.sandbox.cgroups import Group
from intramuros.execution.sandbox.processes import children

pytestmark = pytest.mark.anyio

CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sys.stdin.read()'])"
CHILD = CHILD.replace("'sys.", "'import sys; sys.")
PARENT_OF_TWO = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


class Members(Group):
    """Groups that remember who was moved in, and refuse or lose whom a test names."""

    def __init__(self, *, refuses: bool = False, loses: bool = False) -> None:
        super().__init__(1, {})
        self.inside: list[int] = []
        self._refuses, self._loses = refuses, loses

    def add(self, pid: int) -> None:
        if self._refuses:
            raise PermissionError("not yours")
        self.inside.append(pid)

    def common(self) -> set[int]:
        return set(self.inside[: -1 if self._loses else None])


@contextmanager
def line_of_processes(code: str) -> Iterator[int]:
    """Run a program whose processes stand in a line; all end when its standard input does."""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        yield process.pid
        process.stdin.close()


@pytest.fixture
def outer() -> Iterator[int]:
    with line_of_processes(CHILD) as pid:
        yield pid


async def nothing() -> None:
    pass


async def test_both_processes_are_moved_before_it_may_be_used(outer: int) -> None:
    group = Members()
    await admit(group, outer, nothing)
    assert group.inside[0] == outer
    assert group.inside[1:] == children(outer)
    assert len(group.inside) == 2


async def test_what_keeps_it_from_starting_is_told_rather_than_the_move() -> None:
    async def fails() -> None:
        raise SandboxError("it did not start")

    with pytest.raises(SandboxError, match="it did not start"):
        await admit(Members(refuses=True), os.getpid(), fails)


async def test_no_sandbox_without_its_limits(outer: int) -> None:
    for group in (Members(refuses=True), Members(loses=True)):
        with pytest.raises(SandboxError, match="not in its control groups"):
            await admit(group, outer, nothing)


async def test_a_process_that_was_made_meanwhile_may_not_be_outside() -> None:
    with line_of_processes(PARENT_OF_TWO) as pid:

        async def until_it_has_grandchildren() -> None:
            with anyio.fail_after(10):
                while not [c for child in children(pid) for c in children(child)]:  # noqa: ASYNC110  processes start
                    await anyio.sleep(0.01)

        with pytest.raises(SandboxError, match="a process is outside"):
            await admit(Members(), pid, until_it_has_grandchildren)


async def test_without_groups_it_only_has_to_be_ready() -> None:
    ready: list[bool] = []

    async def note() -> None:
        ready.append(True)

    await admit(None, os.getpid(), note)
    assert ready == [True]
