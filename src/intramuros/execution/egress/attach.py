"""The captures of one worker: attached when a sandbox is made, detached before it goes."""

import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from intramuros.execution.egress.base import Passage
from intramuros.execution.egress.capture import Capture, Means
from intramuros.execution.egress.netns import Joiner
from intramuros.execution.record import OUTWARD, Record
from intramuros.execution.sandbox.base import Sandbox, SandboxError
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock

log = logger("egress")

_WANTED_FILES: Final = 65_536
_RESERVED_FILES: Final = 256
"""Descriptors that a worker needs for itself."""
_FILES_EACH: Final = 3
"""A connection has two ends, and a look-up now and then."""
_LEAST, _MOST = 8, 128
_FLUSH_S: Final = 1.0


class _Held:
    """A capture that runs."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()


class Captures:
    """Every capture of a worker, by sandbox.

    Args:
        record: where names that a sandbox may not look up are written.
        sandboxes: how many may be live at a time; what the process may open is shared out evenly.
    """

    def __init__(self, record: Record, clock: Clock, sandboxes: int) -> None:
        self._record = record
        self._clock = clock
        self._each = share(_raise_files(), sandboxes)
        self._joiner = Joiner()
        self._group: TaskGroup | None = None
        self._held: dict[str, _Held] = {}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Let captures run until the block ends; then every sandbox is without a network."""
        async with anyio.create_task_group() as group:
            self._group = group
            group.start_soon(self._flush)
            try:
                yield
            finally:
                self._group = None
                group.cancel_scope.cancel()
                self._joiner.close()

    async def _flush(self) -> None:
        """Write what gates noted and no other record has taken along."""
        while True:
            await anyio.sleep(_FLUSH_S)
            await self._record.flush()

    async def attach(self, sandbox: Sandbox, passage: Passage) -> None:
        """Catch what a sandbox connects to from now on.

        One that is caught already goes on under the new terms; on the same ports, which are opened
        once. One whose capture failed gets a new one.

        Raises:
            SandboxError: it reaches nothing now.
        """
        held = self._held.get(sandbox.sandbox_id)
        if held is not None:
            held.capture.renew(passage)
            return
        if self._group is None:
            raise SandboxError("nothing catches the connections of sandboxes now")
        network = sandbox.network()
        try:
            sockets = await self._joiner.open(network, passage.names.ports())
        finally:
            os.close(network)
        try:
            sandbox_id = sandbox.sandbox_id

            def refused(name: str) -> None:
                self._note(sandbox_id, name)

            means = Means(self._clock, refused, self._each)
            held = _Held(Capture(sandbox_id, sockets, passage, means))
            await self._group.start(self._hold, sandbox_id, held)
        except BaseException:
            sockets.close()
            raise

    async def detach(self, sandbox_id: str) -> None:
        """End a capture with all its connections. Idempotent."""
        held = self._held.get(sandbox_id)
        if held is not None:
            held.scope.cancel()
            with anyio.CancelScope(shield=True):
                await held.done.wait()

    def attached(self, sandbox_id: str) -> bool:
        """Tell whether a sandbox's connections are being caught."""
        return sandbox_id in self._held

    async def _hold(self, sandbox_id: str, held: _Held, *, task_status: TaskStatus[None]) -> None:
        self._held[sandbox_id] = held
        try:
            with held.scope:
                await held.capture.run(task_status=task_status)
        except Exception:
            # The listeners are closed by now. The other sandboxes keep theirs.
            log.exception("egress_capture_failed", sandbox=sandbox_id)
        finally:
            del self._held[sandbox_id]
            held.done.set()

    def _note(self, sandbox_id: str, name: str) -> None:
        log.info("egress_name_refused", sandbox=sandbox_id, name=name)
        self._record.note(
            "egress.lookup", direction=OUTWARD, session_id=sandbox_id, name=name, allowed=False
        )


def share(files: int, sandboxes: int) -> int:
    """Return how many connections each sandbox may have, of what the process may open."""
    each = (files - _RESERVED_FILES) // (_FILES_EACH * max(sandboxes, 1))
    return min(max(each, _LEAST), _MOST)


def _raise_files() -> int:
    """Raise the soft limit of descriptors as far as it goes and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return _WANTED_FILES if soft == resource.RLIM_INFINITY else soft
