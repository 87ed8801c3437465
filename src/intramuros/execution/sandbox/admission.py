"""See that a sandbox is in its control groups before anything of the model's runs in it.

Its first process enters them before it makes namespaces, so that what shows inside as the root of
the control groups is the sandbox's own group.
"""

from collections.abc import Awaitable, Callable

from intramuros.execution.sandbox import processes
from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.sandbox.cgroups import Group


async def verify(group: Group | None, first: int, ready: Callable[[], Awaitable[None]]) -> None:
    """Wait until a sandbox is ready that was started in its groups.

    Args:
        group: None when it has none.
        first: host pid of what everything in it descends from.
        ready: returns once it serves.

    Raises:
        SandboxError: it is not in its groups; it must not be used. Or what ``ready`` raises.
    """
    await ready()
    if group is not None and {first, *processes.children(first)} - group.common():
        raise SandboxError("the sandbox is not in its control groups (a process is outside)")
