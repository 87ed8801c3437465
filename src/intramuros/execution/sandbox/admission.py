"""Put a sandbox into its control groups while it starts.

The kernel takes 10 ms and more for the first move between groups of a while, doing nothing, and
nobody on the machine can fork meanwhile; so the move waits until bwrap has made process 1, and goes
on while that starts. Until :func:`admit` returns, nothing of the model's has run: there are the
outer process and process 1, both ours, and neither makes others before its first call.
"""

from collections.abc import Awaitable, Callable

import anyio
from anyio import to_thread

from intramuros.execution.sandbox import processes
from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.sandbox.cgroups import Group

_FORK_S = 10.0
_LOOK_S = 0.001


async def admit(group: Group | None, outer: int, ready: Callable[[], Awaitable[None]]) -> None:
    """Wait until a sandbox is ready and all of it is in its groups.

    Args:
        group: None when it has none.
        outer: host pid of its outermost process, whose only child is process 1.
        ready: returns once process 1 serves.

    Raises:
        SandboxError: it is not in its groups; it must not be used. Or what ``ready`` raises.
    """
    if group is None:
        await ready()
        return
    failures: list[Exception] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_attempt, lambda: _move(group, outer), failures)
        tasks.start_soon(_attempt, ready, failures)
    for failure in failures:
        # That it did not start explains why it could not be moved, and not the reverse.
        if not isinstance(failure, OSError) or isinstance(failure, TimeoutError):
            raise failure
    if failures:
        raise _not_limited(failures[0])
    inner = processes.first_child(outer)
    # Whatever else it has made by now would have escaped its limits.
    if inner is None or {outer, inner, *processes.children(inner)} - group.common():
        raise _not_limited("a process is outside")


async def verify(group: Group | None, first: int, ready: Callable[[], Awaitable[None]]) -> None:
    """Wait until a sandbox is ready that was started in its groups.

    Args:
        first: host pid of what everything in it descends from.

    Raises:
        SandboxError: it is not in its groups; it must not be used. Or what ``ready`` raises.
    """
    await ready()
    if group is not None and first not in group.common():
        raise _not_limited("its first process is outside")


async def _move(group: Group, outer: int) -> None:
    """Move both processes; returns without if process 1 never comes, for then it does not start."""
    with anyio.move_on_after(_FORK_S):
        while not (both := processes.children(outer)):  # noqa: ASYNC110  of a fork nobody tells
            await anyio.sleep(_LOOK_S)
        await to_thread.run_sync(_add, group, [outer, *both])


def _add(group: Group, pids: list[int]) -> None:
    for pid in pids:
        group.add(pid)


async def _attempt(action: Callable[[], Awaitable[None]], failures: list[Exception]) -> None:
    """Do something; a failure is kept for later instead of ending what runs beside it."""
    try:
        await action()
    except (OSError, SandboxError) as error:
        failures.append(error)


def _not_limited(why: object) -> SandboxError:
    return SandboxError(f"the sandbox is not in its control groups ({why})")
