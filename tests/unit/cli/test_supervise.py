import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from intramuros.cli.supervise import Program, Supervisor, command, supervising
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock
from tests.unit.cli.conftest import SOURCE

pytestmark = pytest.mark.anyio

READY = "import time; print('ready http://x', flush=True); time.sleep(60)"


def program(tmp_path: Path, code: str, name: str = "p", **more: object) -> Program:
    return Program(
        name=name,
        argv=(sys.executable, "-c", code),
        log_file=tmp_path / f"{name}.log",
        env={"PYTHONPATH": str(SOURCE)},
        **more,  # type: ignore[arg-type]  # test brevity
    )


@asynccontextmanager
async def supervised(tmp_path: Path) -> AsyncIterator[tuple[Supervisor, list[str]]]:
    heard: list[str] = []
    async with supervising(
        SystemClock(), lambda: 0.0, tmp_path, lambda name, what: heard.append(f"{name} {what}")
    ) as supervisor:
        yield supervisor, heard


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition: Callable[[], bool]) -> None:
    # A process tells nobody that it changed.
    deadline_s = anyio.current_time() + 60
    while not condition():
        assert anyio.current_time() < deadline_s
        await anyio.sleep(0.02)


async def test_ready_restart_and_stop(tmp_path: Path) -> None:
    async with supervised(tmp_path) as (supervisor, heard):
        assert await supervisor.start(program(tmp_path, READY)) == "http://x"
        first = supervisor.pid("p")
        assert first is not None
        assert (tmp_path / "p.pid").read_text() == f"{first}\n"
        os.kill(first, signal.SIGKILL)
        await until(lambda: heard == ["p ready", "p died", "p ready"])
        second = supervisor.pid("p")
        assert second is not None
        assert second != first
        assert supervisor.restarts("p") == 1
        await supervisor.stop("p")
        assert not alive(second)
        assert not (tmp_path / "p.pid").exists()
        assert heard == ["p ready", "p died", "p ready"]


async def test_leaving_the_block_kills_grandchildren_too(tmp_path: Path) -> None:
    code = (
        "import subprocess, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen(['sleep', '60']); print(f'ready {child.pid}', flush=True);"
        "time.sleep(60)"
    )
    async with supervised(tmp_path) as (supervisor, _):
        grandchild = int(await supervisor.start(program(tmp_path, code, stop_s=0.2)))
        assert alive(grandchild)
    await until(lambda: b"sleep" not in _cmdline(grandchild))


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "import sys; sys.exit('error: port taken: choose another')",
            "p: port taken: choose another",
        ),
        ("import sys; sys.exit('Traceback')", "p did not start: see "),
        ("print('hello')", "p did not start: see "),
    ],
)
async def test_what_does_not_start_says_why(tmp_path: Path, code: str, says: str) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with supervised(tmp_path) as (supervisor, _):
            await supervisor.start(program(tmp_path, code))
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OperatorError)
    assert str(error).startswith(says)


async def test_a_probe_stands_in_for_the_ready_line(tmp_path: Path) -> None:
    answers = iter([None, None, "here"])
    silent = "import time; time.sleep(60)"
    async with supervised(tmp_path) as (supervisor, _):
        started = program(tmp_path, silent, probe=lambda: next(answers))
        assert await supervisor.start(started) == "here"


async def test_a_program_sees_no_environment_but_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not for children")
    code = "import os; print('ready', *sorted(os.environ), flush=True); import time; time.sleep(9)"
    async with supervised(tmp_path) as (supervisor, _):
        names = (await supervisor.start(program(tmp_path, code))).split()
    assert "ANTHROPIC_API_KEY" not in names
    assert "PATH" in names


def test_commands_run_with_this_python() -> None:
    assert command("server", "--port", "1")[0] == sys.executable
    assert command("server", "--port", "1")[-3:] == ("server", "--port", "1")
