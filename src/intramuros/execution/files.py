"""A cloud session's files in its sandbox: what it has mounted, and what its agent leaves."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from intramuros.execution.client import ControlPlaneError, Upload
from intramuros.execution.hosted_client import HostedClient
from intramuros.execution.outputs import Outputs
from intramuros.execution.record import Record, RecordFailed
from intramuros.execution.releases import WayOut
from intramuros.execution.sandbox import trees
from intramuros.execution.sandbox.base import Mount
from intramuros.execution.uploads import Uploads
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, parse_rfc3339, rfc3339
from intramuros.protocol.resources.mounts import OUTPUTS, UPLOADS

log = logger("files")

# How old, in seconds, what is known of a session's mounted files may be when a call begins. At the
# first call of a turn it must be new.
FRESH_S: Final = 5.0
# Of the last sync of an item, in seconds.
CLOSE_S: Final = 60.0
# A cloud sandbox and all that is in it lasts this long, used or not (contract 8.14).
LIFETIME: Final = timedelta(days=30)
_ERRORS: Final = (ControlPlaneError, OSError, RecordFailed)


class FilesFailed(Exception):
    """The session's files could not be mounted: without them it must not run."""


@dataclass(frozen=True)
class Means:
    """What a session's files are kept with.

    Args:
        directory: for the files of all sessions, on this host.
    """

    directory: Path
    record: Record
    clock: Clock
    rand: Callable[[], float]
    way: WayOut


class Files:
    """The files of one item's session."""

    def __init__(self, means: Means, client: HostedClient) -> None:
        self._means = means
        self._client = client
        self._home = means.directory / client.work.session_id
        self._uploads = Uploads(self._home / "uploads", client, means.record, means.rand)
        self._outputs = Outputs(self._home / "outputs", client, means.record, means.way)
        self._looked_s = 0.0
        self._turn = 0

    async def outlived(self) -> bool:
        """Tell whether the session's sandbox is too old; what is here of it is removed then.

        Raises:
            FilesFailed: the disk does not tell.
        """
        since = self._home / "since"
        now = self._means.clock.now()

        def look() -> bool:
            try:
                born = parse_rfc3339(since.read_text(encoding="ascii"))
            except (OSError, ValueError):
                self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
                since.write_text(rfc3339(now), encoding="ascii")
                return False
            if now - born < LIFETIME:
                return False
            trees.remove(os.fspath(self._home))
            return True

        try:
            if not await to_thread.run_sync(look):
                return False
            await to_thread.run_sync(look)  # the new one begins now
        except OSError as error:
            raise FilesFailed(f"cannot keep the session's files: {error}") from error
        return True

    async def open(self, uploads: Sequence[Upload]) -> tuple[Mount, ...]:
        """Fetch the mounted files and return what the sandbox is to mount.

        Raises:
            FilesFailed: they cannot be had.
        """
        try:
            await self._uploads.open(uploads)
            await self._outputs.open()
        except _ERRORS as error:
            raise FilesFailed(f"cannot mount the session's files: {error}") from error
        self._looked_s = self._means.clock.monotonic()
        return (
            Mount(self._uploads.path, UPLOADS),
            Mount(self._outputs.path, OUTPUTS, read_only=False, owned=True),
        )

    def stale(self, turn: int) -> bool:
        """Tell whether it is time to look at what the session has mounted.

        Args:
            turn: the number of the turn that a call is about to be made in.
        """
        old = self._means.clock.monotonic() - self._looked_s >= FRESH_S
        fresh_turn, self._turn = turn != self._turn, turn
        return old or fresh_turn

    async def refresh(self, uploads: Sequence[Upload]) -> None:
        """Show what was mounted meanwhile; never raises."""
        self._looked_s = self._means.clock.monotonic()
        try:
            await self._uploads.sync(uploads)
        except _ERRORS as error:
            log.warning("files_not_refreshed", error=str(error))

    async def bring(self) -> None:
        """Bring out what the agent has left; never raises."""
        try:
            await self._outputs.sync()
        except _ERRORS as error:
            log.warning("outputs_not_brought", error=str(error))

    def notices(self) -> list[str]:
        """Return what the model has not yet been told of outputs that stay in the sandbox."""
        told, self._outputs.notices = self._outputs.notices, []
        return told

    async def close(self, *, deleted: bool) -> None:
        """Bring out the rest; the directories stay, like the workspace, until the session goes."""
        if not deleted:
            with anyio.move_on_after(CLOSE_S):
                await self.bring()
        await self._client.aclose()
        if deleted:
            await to_thread.run_sync(trees.remove, os.fspath(self._home))
