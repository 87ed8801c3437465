"""Tools of wrapped MCP servers as a worker serves them, under the names that agents declare.

The MCP SDK is large and loaded only where there is a server to reach.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from intramuros.execution.sandbox.base import Sandbox
from intramuros.execution.tools.outcomes import ToolOutcome
from intramuros.execution.wrapped.config import Wrapped
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import Clock

Beside = Callable[[Mapping[str, Any]], Awaitable[ToolOutcome]]


@dataclass(frozen=True)
class InSandbox:
    """A tool of a program that is started in the session's sandbox for each call."""

    server: Wrapped
    tool: str

    async def call(self, sandbox: Sandbox, arguments: Mapping[str, Any]) -> ToolOutcome:
        """Call it once.

        Raises:
            SandboxError: the sandbox cannot run it.
        """
        from intramuros.execution.wrapped.servers import called_inside

        return await called_inside(sandbox, self.server, self.tool, arguments)


class Wrapping:
    """All wrapped servers of one worker; :meth:`run` must be running while tools are called."""

    def __init__(self, servers: Iterable[Wrapped], clock: Clock) -> None:
        self.tools: dict[str, Beside | InSandbox] = {}
        self.secrets: list[str] = []
        """What the servers are shown as credentials."""
        self._runs: list[Callable[[Stop], Coroutine[Any, Any, None]]] = []
        for server in servers:
            self._add(server, clock)

    def _add(self, server: Wrapped, clock: Clock) -> None:
        self.secrets += server.secrets
        if server.inside:
            self.tools |= {name: InSandbox(server, own) for name, own in server.tools.items()}
            return
        from intramuros.execution.wrapped.servers import Outside

        outside = Outside(server, clock)
        self.tools |= {name: partial(outside.call, own) for name, own in server.tools.items()}
        self._runs.append(outside.run)

    @property
    def needs_running(self) -> bool:
        """Whether a session with any server is kept."""
        return bool(self._runs)

    async def run(self, stop: Stop) -> None:
        """Keep sessions with servers beside the worker until a stop is asked for."""
        async with anyio.create_task_group() as group:
            for run in self._runs:
                group.start_soon(run, stop)
