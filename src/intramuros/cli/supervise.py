"""Keep a few programs running: start, wait until ready, restart what dies, stop in order.

Each program is a process group of its own that dies with this process (``cli/tether.py``). A
program says that it serves by a line on standard output that begins with ``ready``; the rest of
that line is its address.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import anyio
from anyio.abc import Process, TaskGroup, TaskStatus

from intramuros.cli.failures import one_line
from intramuros.kernel.config import clean_environment
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, backoff_s

log = logger("supervisor")

READY: Final = "ready"
START_TIMEOUT_S: Final = 30.0
RESTART_BASE_S: Final = 0.2
RESTART_CAP_S: Final = 5.0
# A program that lived this long is healthy: its next death is a first death.
HEALTHY_S: Final = 20.0
# Of our own environment, what a program may see; credentials are given one by one.
_KEPT: Final = ("PATH", "HOME", "LANG", "TERM", "TMPDIR", "PYTHONPATH")
_LINE_LIMIT: Final = 4096
_TAIL_BYTES: Final = 16 * 1024


@dataclass(frozen=True)
class Program:
    """What to run.

    ``log_file`` takes its standard error. ``probe`` replaces the
    ready line for programs that print none: called until it returns an address.
    """

    name: str
    argv: tuple[str, ...]
    log_file: Path
    env: Mapping[str, str] = field(default_factory=dict)
    stop_s: float = 8.0
    probe: Callable[[], str | None] | None = None


@dataclass
class _Child:
    program: Program
    process: Process | None = None
    stopping: anyio.Event = field(default_factory=anyio.Event)
    deaths: int = 0
    gone: anyio.Event = field(default_factory=anyio.Event)


OnEvent = Callable[[str, str], None]


class Supervisor:
    """Use :func:`supervising`; then :meth:`start` programs, one after another."""

    def __init__(
        self,
        group: TaskGroup,
        clock: Clock,
        rand: Callable[[], float],
        pid_dir: Path,
        on_event: OnEvent,
    ) -> None:
        self._group = group
        self._clock = clock
        self._rand = rand
        self._pid_dir = pid_dir
        self._on_event = on_event
        self._children: dict[str, _Child] = {}

    async def start(self, program: Program) -> str:
        """Start a program and return the address it is ready at.

        Raises:
            OperatorError: it ended, or said nothing in time; with its own last words.
        """
        child = _Child(program)
        address: str = await self._group.start(self._keep, child)
        return address

    def pid(self, name: str) -> int | None:
        """Return the process id of a program, or None while it is down."""
        child = self._children.get(name)
        return child.process.pid if child and child.process else None

    def restarts(self, name: str) -> int:
        """Return how often a program was started again."""
        child = self._children.get(name)
        return child.deaths if child else 0

    async def stop(self, name: str) -> None:
        """Stop a program for good; returns when its whole process group is gone."""
        child = self._children.pop(name, None)
        if child is not None:
            child.stopping.set()
            if child.process is not None:
                await _terminate(child.process, child.program.stop_s)
            await child.gone.wait()

    async def stop_all(self) -> None:
        """Stop every program, the youngest first."""
        for name in reversed(list(self._children)):
            await self.stop(name)

    async def _keep(
        self, child: _Child, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        program = child.program
        self._children[program.name] = child
        status: TaskStatus[str] | None = task_status
        try:
            while not child.stopping.is_set():
                began = self._clock.monotonic()
                try:
                    await self._live(child, status)
                except OperatorError:
                    if status is not None:
                        raise
                status = None
                if child.stopping.is_set():
                    return
                if self._clock.monotonic() - began > HEALTHY_S:
                    child.deaths = 0
                wait_s = backoff_s(child.deaths, RESTART_BASE_S, RESTART_CAP_S, self._rand())
                child.deaths += 1
                self._on_event(program.name, "died")
                log.warning("child_died", name=program.name, restart_in_s=round(wait_s, 2))
                with anyio.move_on_after(wait_s):
                    await child.stopping.wait()
        finally:
            self._children.pop(program.name, None)
            child.gone.set()

    async def _live(self, child: _Child, status: TaskStatus[str] | None) -> None:
        """Run the program once, from start to death."""
        program = child.program
        pid_file = self._pid_dir / f"{program.name}.pid"
        deadline_s = START_TIMEOUT_S if status is not None else None
        try:
            async with _running(program) as process:
                child.process = process
                pid_file.write_text(f"{process.pid}\n")
                # Only the first start has a deadline: later, what it waits for may be down too.
                with anyio.fail_after(deadline_s):
                    address = await _ready(program, process)
                self._on_event(program.name, "ready")
                if status is not None:
                    status.started(address)
                await _drain(process)
                await process.wait()
        except TimeoutError as error:
            raise OperatorError(
                f"{program.name} was not ready within {START_TIMEOUT_S:.0f} s",
                f"see {program.log_file}",
            ) from error
        finally:
            child.process = None
            pid_file.unlink(missing_ok=True)


@asynccontextmanager
async def supervising(
    clock: Clock,
    rand: Callable[[], float],
    pid_dir: Path,
    on_event: OnEvent = lambda _name, _what: None,
) -> AsyncIterator[Supervisor]:
    """Own the programs of a block: whatever ends the block stops them all."""
    async with anyio.create_task_group() as group:
        supervisor = Supervisor(group, clock, rand, pid_dir, on_event)
        try:
            yield supervisor
        finally:
            with anyio.CancelScope(shield=True):
                await supervisor.stop_all()
            group.cancel_scope.cancel()


def command(*arguments: str) -> tuple[str, ...]:
    """Return the argument list that runs ``intramuros ARGUMENTS…`` with this Python."""
    return (sys.executable, "-m", "intramuros.cli.main", *arguments)


@asynccontextmanager
async def _running(program: Program) -> AsyncIterator[Process]:
    tether = (sys.executable, "-m", "intramuros.cli.tether", str(os.getpid()))
    async with AsyncExitStack() as stack:
        errors = stack.enter_context(_log(program.log_file))
        process = await anyio.open_process(
            (*tether, *program.argv),
            stdin=-3,  # DEVNULL
            stderr=errors,
            env={**clean_environment(_KEPT), **program.env},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with anyio.CancelScope(shield=True):
                await _terminate(process, program.stop_s)
                await process.aclose()


def _log(file: Path) -> IO[bytes]:
    try:
        return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
    except OSError as error:
        raise OperatorError(
            f"cannot write {file} ({error.strerror})", "check the directory and free space"
        ) from error


async def _ready(program: Program, process: Process) -> str:
    if program.probe is not None:
        while (address := program.probe()) is None:
            if process.returncode is not None:
                raise _last_words(program)
            await anyio.sleep(0.05)
        return address
    line = await _first_line(process)
    if not line.startswith(READY):
        await process.wait()
        raise _last_words(program)
    return line.removeprefix(READY).strip()


async def _first_line(process: Process) -> str:
    """Return the line that begins with ``ready``, or the empty string when there is none."""
    data = b""
    if process.stdout is not None:
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while len(data) < _LINE_LIMIT:
                data += await process.stdout.receive()
                for line in data.split(b"\n")[:-1]:
                    if line.startswith(READY.encode()):
                        return line.decode(errors="replace")
    return ""


async def _drain(process: Process) -> None:
    if process.stdout is not None:
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                await process.stdout.receive()


def _last_words(program: Program) -> OperatorError:
    """Return the program's own error line as ours."""
    size = program.log_file.stat().st_size
    with program.log_file.open("rb") as file:
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        problem, _, fix = one_line(errors[-1].removeprefix("error: ")).rpartition(": ")
        return OperatorError(f"{program.name}: {problem}", fix)
    return OperatorError(f"{program.name} did not start", f"see {program.log_file}")


async def _terminate(process: Process, stop_s: float) -> None:
    """Ask the process to end, then kill what is left of its group."""
    with suppress(ProcessLookupError):
        process.terminate()
    with anyio.move_on_after(stop_s):
        await process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
