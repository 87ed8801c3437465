import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside import stillness


def state(pid: int) -> str:
    return stillness.table()[pid][0]


def until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        os.sched_yield()
        stillness.table()
    raise AssertionError("it did not come to be")


@pytest.fixture
def family() -> Iterator[tuple[int, list[int]]]:
    with subprocess.Popen(["/bin/bash", "-c", "sleep 60 & sleep 61 & wait"]) as process:
        until(lambda: len(stillness.below(process.pid, stillness.table())) == 2)
        children = stillness.below(process.pid, stillness.table())
        yield process.pid, children
        for pid in (process.pid, *children):
            os.kill(pid, 9)


def test_all_below_stands_still_and_goes_on(family: tuple[int, list[int]]) -> None:
    parent, children = family
    os.kill(children[0], 19)
    until(lambda: state(children[0]) == "T")
    held = stillness.hold()
    assert {parent, children[1]} <= set(held)
    assert children[0] not in held  # somebody else had stopped it
    assert [state(pid) for pid in (parent, *children)] == ["T", "T", "T"]
    stillness.release(held)
    until(lambda: state(parent) != "T" and state(children[1]) != "T")
    assert state(children[0]) == "T"


def test_background_processes_are_named(family: tuple[int, list[int]]) -> None:
    parent, children = family
    told = stillness._listed(os.getpid(), {children[0]}, parent)
    rows = [line.split("\t") for line in told.decode().split("\0")]
    mine = [row for row in rows if int(row[0]) in (parent, *children)]
    assert [(int(pid), command) for pid, _, command in mine] == [(children[1], "sleep 61")]
    assert int(mine[0][1]) < 60


def test_a_long_list_is_cut_and_says_so(
    family: tuple[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stillness, "_MAX_PROCESSES", 1)
    parent, _ = family
    told = stillness._listed(parent, set(), None).decode().split("\0")
    assert (len(told), told[1]) == (2, "0\t0\tand 1 more")


def test_a_command_is_one_printable_line() -> None:
    argv = ["/bin/cat", "--", "-", "\n\x1b[31m" + "x" * 500]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        until(lambda: b"x" in Path(f"/proc/{process.pid}/cmdline").read_bytes())
        said = stillness._command(process.pid)
        process.kill()
    assert said.startswith("/bin/cat -- -   [31mxxx")
    assert len(said) == 200
    assert said.isprintable()
    assert "hides" in stillness._command(2**22 - 3)


def test_a_shells_open_files_are_named() -> None:
    argv = ["/bin/bash", "-c", "exec 7</etc/passwd; read"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        until(lambda: stillness.descriptors(process.pid) == ["7 → /etc/passwd"])
        process.kill()
    fd = os.open("/etc/passwd", os.O_RDONLY | os.O_CLOEXEC)
    assert stillness._closes(os.getpid(), str(fd))
    os.set_inheritable(fd, True)
    assert not stillness._closes(os.getpid(), str(fd))
    os.close(fd)
    assert stillness.descriptors(2**22 - 3) == []


def test_release_bears_what_is_gone() -> None:
    stillness.release([2**22 - 3])
