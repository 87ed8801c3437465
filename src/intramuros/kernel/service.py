"""Run a process's named tasks in one group, with two stops.

The first SIGTERM or SIGINT asks the tasks to take no more and to finish; the second, or the end of
the drain time, cancels them. If a task fails, the whole process stops with its cause. A process
that others send requests to may leave before: all goes on while they are told to turn elsewhere.
"""

import gc
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup, TaskStatus

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger

log = logger("service")


class Stop:
    """Whether the process was asked to take no more work."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    @property
    def requested(self) -> bool:
        """True once a stop was asked for."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask every task to take no more."""
        self._event.set()

    async def wait(self) -> None:
        """Return when a stop is asked for."""
        await self._event.wait()


Task = Callable[[Stop], Awaitable[None]]


@dataclass(frozen=True)
class Leave:
    """What comes between the first signal and the stop.

    Args:
        seconds: how long; another signal ends it.
        begin: tells others to turn elsewhere.
    """

    seconds: float
    begin: Callable[[], None]


async def run_service(
    tasks: Mapping[str, Task],
    *,
    drain_s: float,
    stop: Stop | None = None,
    leave: Leave | None = None,
) -> None:
    """Run named tasks until they end, a stop is drained, or one fails.

    Args:
        tasks: name → coroutine function that gets the :class:`Stop` and returns once drained.
        drain_s: seconds that the tasks have after the first stop.
        stop: the stop to use, for callers that stop the service themselves.
        leave: what comes before a stop that a signal asks for.

    Raises:
        Exception: whatever a task raised, unwrapped when it was the only one.
    """
    stop = stop or Stop()
    try:
        async with anyio.create_task_group() as group:
            await group.start(_watch_signals, stop, group, leave)
            group.start_soon(_deadline, stop, drain_s, group.cancel_scope)
            async with anyio.create_task_group() as workers:
                for name, task in tasks.items():
                    workers.start_soon(_named, name, task, stop)
            group.cancel_scope.cancel()
    except BaseExceptionGroup as failed:
        cause: BaseException = failed
        while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        if cause is failed:
            raise
        raise cause from cause.__cause__


async def on_hangup(act: Callable[[], None], stop: Stop) -> None:
    """Act on each SIGHUP until a stop; none ends the process meanwhile."""
    async with anyio.create_task_group() as group:
        await group.start(_watch_hangups, act)
        await stop.wait()
        group.cancel_scope.cancel()


async def _watch_hangups(
    act: Callable[[], None], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            act()


def settle() -> None:
    """Take what is loaded by now out of the garbage collector's sight; call it once set up.

    Modules, models and routes live as long as the process. A full collection that looks at all of
    them again and again stops every task for over 100 ms in a server, and takes a sixth of its CPU.
    """
    gc.collect()
    gc.freeze()


async def _named(name: str, task: Task, stop: Stop) -> None:
    try:
        await task(stop)
    except Exception as error:
        if _for_the_operator(error):
            # Whoever started the process tells the operator, in one line.
            raise
        log.error("task_failed", task=name, error=repr(error))
        raise
    log.debug("task_ended", task=name)


def _for_the_operator(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):
        return error.split(OperatorError)[1] is None
    return isinstance(error, OperatorError)


async def _watch_signals(
    stop: Stop,
    group: TaskGroup,
    leave: Leave | None,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            if stop.requested:
                group.cancel_scope.cancel()
                return
            if leave is not None:
                log.info("leaving", seconds=leave.seconds)
                leave.begin()
                group.start_soon(_stop_after, leave.seconds, stop)
                leave = None
                continue
            log.info("stopping", reason="signal")
            stop.request()


async def _stop_after(seconds: float, stop: Stop) -> None:
    with anyio.move_on_after(seconds):
        await stop.wait()
        return
    log.info("stopping", reason="left")
    stop.request()


async def _deadline(stop: Stop, drain_s: float, scope: anyio.CancelScope) -> None:
    await stop.wait()
    await anyio.sleep(drain_s)
    log.warning("drain_ended", drain_s=drain_s)
    scope.cancel()
