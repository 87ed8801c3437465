"""A session's memory stores, mounted into its sandbox (contract 25.14 to 25.23).

Each store is a directory of ours that the sandbox has as its own file system at the store's place,
and only the worker speaks to the control plane, with the work item's token::

    open    fetch each store, or take up what a worker that died here left
    sync    after a call, when the last one is long enough ago
    close   once more at the end; what could not be sent stays for the next item on this host
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import anyio
from anyio import to_thread

from intramuros.execution.client import Attached, Away, ControlPlaneError
from intramuros.execution.memory_files import Folder
from intramuros.execution.memory_store import Line, Pass, Store
from intramuros.execution.record import RecordFailed
from intramuros.execution.sandbox import trees
from intramuros.execution.sandbox.base import Mount
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import backoff_s

log = logger("memory")

# Of one pass at the end, in seconds (contract 25.17).
CLOSE_S: Final = 30.0
_ATTEMPTS: Final = 4


class MemoryFailed(Exception):
    """A store could not be mounted: without it the session must not run (contract 9.42)."""


@dataclass(frozen=True)
class MemoryTerms:
    """What holds for the memory of every session of one worker."""

    directory: Path
    """Where the stores lie on this host."""
    interval_s: float
    """Between two passes."""


class Memories:
    """The stores of one item's session."""

    def __init__(self, terms: MemoryTerms, line: Line, rand: Callable[[], float]) -> None:
        self._terms = terms
        self._line = line
        self._rand = rand
        self._home = terms.directory / line.client.work.session_id
        self._stores: list[Store] = []
        self._last_s = 0.0

    async def open(self, attached: Sequence[Attached]) -> tuple[Mount, ...]:
        """Fetch every store and return what the sandbox is to mount.

        Raises:
            MemoryFailed: one of them cannot be had, or has no place.
        """
        if attached and self._line.client.work.token is None:
            raise MemoryFailed("the work item came without the token that memory needs")
        mounts: list[Mount] = []
        for store in attached:
            _check_place(store, [mount.target for mount in mounts])
            # Its id comes from outside, so it does not become a file name.
            name = hashlib.sha256(store.store_id.encode()).hexdigest()[:32]
            folder = Folder(self._home / name, store.store_id)
            await self._fetch(Store(store, folder, self._line))
            mounts.append(
                Mount(folder.path, store.mount_path, read_only=store.read_only, owned=True)
            )
        self._last_s = self._line.clock.monotonic()
        return tuple(mounts)

    async def sync_if_due(self) -> None:
        """Bring all stores in step if the last time is long enough ago; never raises."""
        if not self._stores:
            return
        if self._line.clock.monotonic() - self._last_s >= self._terms.interval_s:
            with anyio.move_on_after(CLOSE_S):
                await self._sync(Pass.REGULAR)

    async def close(self, *, clean: bool, keep: bool) -> None:
        """Send what is still unsent; never raises.

        Args:
            clean: the item came to its end by itself, so what is gone was meant to go.
            keep: a paused sandbox still has the directories mounted.
        """
        if clean:
            with anyio.move_on_after(CLOSE_S):
                await self._sync(Pass.FINAL)
        if not clean or not self._synced():
            with anyio.move_on_after(CLOSE_S):
                await self._sync(Pass.FLUSH)
        if not keep and self._synced():
            await self.forget()

    async def forget(self) -> None:
        """Remove the directories."""
        self._stores.clear()
        await to_thread.run_sync(trees.remove, os.fspath(self._home))

    def _synced(self) -> bool:
        return all(store.synced for store in self._stores)

    async def _fetch(self, store: Store) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                await store.open()
            except (ControlPlaneError, OSError, RecordFailed) as error:
                if attempt + 1 == _ATTEMPTS or not isinstance(error, Away):
                    where = store.attached.store_id
                    raise MemoryFailed(f"cannot fetch memory store {where}: {error}") from error
                await anyio.sleep(backoff_s(attempt, 0.5, 5.0, self._rand()))
            else:
                self._stores.append(store)
                return

    async def _sync(self, kind: Pass) -> None:
        async with anyio.create_task_group() as group:
            for store in self._stores:
                group.start_soon(store.sync, kind)
        self._last_s = self._line.clock.monotonic()


def _check_place(store: Attached, taken: Sequence[str]) -> None:
    place = PurePosixPath(store.mount_path)
    if not place.is_absolute() or ".." in place.parts or str(place) != store.mount_path:
        raise MemoryFailed(f"{store.mount_path!r} is no plain absolute path")
    if store.mount_path in taken:
        raise MemoryFailed(f"two memory stores want {store.mount_path}")
