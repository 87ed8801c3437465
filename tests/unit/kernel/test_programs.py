import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.kernel import programs
from intramuros.kernel.config import clean_environment
from intramuros.kernel.programs import Lines, TooLong, running
from tests.waiting import until

LINE = b'{"id":1}\n'


@given(st.lists(st.integers(min_value=1, max_value=len(LINE)), max_size=20))
def test_lines_are_whole_however_they_come(cuts: list[int]) -> None:
    lines, data, found = Lines(1000), LINE * 3, []
    for cut in cuts:
        found += lines.feed(data[:cut])
        data = data[cut:]
    found += lines.feed(data)
    assert found == [LINE.rstrip()] * 3


@pytest.mark.parametrize("data", [b"x" * 1001, b"x" * 1001 + b"\n", LINE + b"x" * 1001])
def test_a_line_has_a_size(data: bytes) -> None:
    with pytest.raises(TooLong):
        Lines(1000).feed(data)


def test_many_small_pieces_are_one_long_line() -> None:
    lines = Lines(1000)
    for _ in range(10):
        assert lines.feed(b"x" * 100) == []
    with pytest.raises(TooLong):
        lines.feed(b"x")


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


@pytest.mark.anyio
async def test_a_program_is_spoken_to_and_has_only_the_variables_it_was_given() -> None:
    text = (
        "import os,sys; print(sys.stdin.readline(), dict(os.environ)); print('no', file=sys.stderr)"
    )
    async with running(python(text), {"LC_ALL": "C.UTF-8", "A": "1"}, listen=True) as pipes:
        await pipes.send(b"hello\n")
        said = b""
        while (data := await pipes.receive()) is not None:
            said += data
        assert said.startswith(b"hello")
        assert b"'A': '1'" in said
        assert b"HOME" not in said
        assert await pipes.complaints() == b"no\n"
        assert await pipes.complaints() is None


@pytest.mark.anyio
async def test_what_nobody_listens_to_is_dropped() -> None:
    async with running(python("import sys; sys.stderr.write('x' * 1000000)"), {}) as pipes:
        assert await pipes.receive() is None
        assert await pipes.complaints() is None


@pytest.mark.anyio
async def test_a_stubborn_program_ends_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs, "GRACE_S", 0.2)
    text = (
        "import signal,subprocess,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True); time.sleep(600)"
    )
    async with running(python(text), clean_environment()) as pipes:
        child = int(await pipes.receive() or b"")
        assert alive(child)
    await until(lambda: not alive(child), 30)
    assert pipes.process.returncode == -9


@pytest.mark.anyio
async def test_a_program_that_ended_leaves_nobody_behind() -> None:
    text = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    async with running(python(text), clean_environment()) as pipes:
        child = int(await pipes.receive() or b"")
        await pipes.process.wait()
    await until(lambda: not alive(child), 30)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.anyio
async def test_who_writes_to_a_program_that_is_gone_learns_it() -> None:
    async with running(python("pass"), {}) as pipes:
        await pipes.process.wait()
        with pytest.raises(programs.GONE):
            while True:
                await pipes.send(b"x" * 100_000)
