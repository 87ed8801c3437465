"""One memory store of one session: fetched into a directory, and kept in step with it."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import anyio
from anyio import to_thread

from intramuros.execution.client import (
    Attached,
    Away,
    ControlPlaneError,
    Raced,
    Refused,
)
from intramuros.execution.memory_client import Memory, MemoryClient
from intramuros.execution.memory_files import MARKER, Folder
from intramuros.execution.memory_merge import (
    DELETE_AFTER_S,
    Act,
    decide,
    most_deletes,
    wiped,
)
from intramuros.execution.outflow.results import Cleared, Found
from intramuros.execution.record import INWARD, OUTWARD, Record, RecordFailed, weigh
from intramuros.execution.releases import Matter, WayOut
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock
from intramuros.protocol.resources.memory import check_path

log = logger("memory")

# Requests of one store under way at once.
_CONCURRENCY: Final = 16
_BATCH: Final = 20
_PUSHES: Final = frozenset({Act.AGREE, Act.CREATE, Act.UPDATE})


class Pass(StrEnum):
    """How thorough a pass is."""

    REGULAR = "regular"
    FINAL = "final"  # nobody comes later to confirm a deletion
    FLUSH = "flush"  # only sends what is new


@dataclass(frozen=True)
class Line:
    """What the stores of one session share."""

    client: MemoryClient
    record: Record
    way: WayOut
    clock: Clock


@dataclass
class _Deletes:
    """The deletions of one pass."""

    left: int
    final: bool

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


@dataclass
class Known:
    """What this worker remembers of a store between passes; paths have no leading slash."""

    base: dict[str, str] = field(default_factory=dict)
    """Digests that both sides had when they last agreed."""
    refused: dict[str, str] = field(default_factory=dict)
    """Digests that the control plane will not take; tried again when the file changes."""
    sent: dict[str, str] = field(default_factory=dict)
    """Digests sent without an answer: the next list tells whether they arrived."""
    missing: dict[str, float] = field(default_factory=dict)
    """When each file that is gone was first missed, by the monotonic clock."""


class Store:
    """Keeps a folder and a store in step; ``synced`` tells whether the last pass left nothing."""

    def __init__(self, attached: Attached, folder: Folder, line: Line) -> None:
        self.attached = attached
        self.folder = folder
        self._line = line
        self._known = Known()
        self.synced = False

    async def open(self) -> None:
        """Fetch the store, or take up what a worker before us left (contract 25.16).

        Raises:
            ControlPlaneError, OSError, RecordFailed: it could not be fetched whole.
        """
        if await to_thread.run_sync(self.folder.create):
            await self._fetch()
        else:
            self._known.base = await to_thread.run_sync(self.folder.load)
            await self._pass(Pass.REGULAR)

    async def sync(self, kind: Pass) -> None:
        """Bring both sides together as far as possible; never raises but for cancellation."""
        self.synced = False
        try:
            await self._pass(kind)
        except (ControlPlaneError, OSError, RecordFailed) as error:
            log.warning("memory_sync_failed", store_id=self.attached.store_id, error=str(error))

    async def _pass(self, kind: Pass) -> None:
        if self.attached.read_only and kind is Pass.FLUSH:
            self.synced = True
            return
        local = await to_thread.run_sync(self.folder.scan)
        marked = await to_thread.run_sync(self.folder.marked)
        if not marked and local:
            # Whose files these are nobody knows any more: they neither leave nor delete anything.
            log.warning("memory_marker_gone", store_id=self.attached.store_id)
            return
        remote = await self._list()
        self._settle(remote)
        if not marked or wiped(len(local), len(self._known.base)):
            if kind is not Pass.FLUSH:
                log.warning("memory_wiped_locally", store_id=self.attached.store_id)
                await self._fetch()
            return
        await self._merge(local, remote, kind)
        await self._save()

    async def _merge(self, local: dict[str, str], remote: dict[str, Memory], kind: Pass) -> None:
        known = self._known
        deletes = _Deletes(most_deletes(len(known.base)), kind is Pass.FINAL)
        self.synced = True
        limiter = anyio.CapacityLimiter(_CONCURRENCY)
        async with anyio.create_task_group() as group:
            for path in sorted({*local, *remote, *known.base}):
                here, there = local.get(path), remote.get(path)
                if here is not None:
                    known.missing.pop(path, None)
                act = decide(
                    known.base.get(path),
                    here,
                    None if there is None else there.sha256,
                    read_only=self.attached.read_only,
                )
                if kind is Pass.FLUSH and act not in _PUSHES:
                    continue
                if act is Act.AGREE and there is not None:
                    known.base[path] = there.sha256
                elif act is Act.FORGET:
                    self._agree(path, None)
                elif act is not Act.LEAVE:
                    todo = self._doing(act, path, here, there, deletes)
                    group.start_soon(self._one, limiter, path, todo)

    def _doing(
        self, act: Act, path: str, here: str | None, there: Memory | None, deletes: _Deletes
    ) -> Callable[[], Awaitable[None]]:
        if act is Act.PULL and there is not None:
            return lambda: self._pull(path, there)
        if act is Act.DELETE and there is not None:
            return lambda: self._delete(path, there, deletes)
        if act is Act.DROP:
            return lambda: self._drop(path)
        return lambda: self._push(path, here or "", there)

    async def _one(
        self, limiter: anyio.CapacityLimiter, path: str, todo: Callable[[], Awaitable[None]]
    ) -> None:
        async with limiter:
            try:
                await todo()
            except (ControlPlaneError, OSError, RecordFailed) as error:
                self.synced = False
                log.warning("memory_not_synced", store_id=self.attached.store_id, error=str(error))

    async def _fetch(self) -> None:
        """Write the marker and every memory; nothing is sent."""
        self._known = Known(refused=self._known.refused)
        await to_thread.run_sync(self.folder.mark)
        batch: list[Memory] = []
        async for memory in self._line.client.memories(self.attached.store_id, full=True):
            if _path_of(memory) is not None:
                batch.append(memory)
            if len(batch) == _BATCH:
                await self._take(batch)
                batch = []
        await self._take(batch)
        await self._save()
        self.synced = True

    async def _take(self, memories: list[Memory]) -> None:
        """Record and write what has come in; a file that cannot be written is tried again later."""
        if not memories:
            return
        await self._note(
            "memory.read",
            INWARD,
            memories=len(memories),
            bytes=sum(len((memory.content or "").encode()) for memory in memories),
            sha256=weigh([[memory.id, memory.sha256] for memory in memories]).sha256,
        )
        for memory in memories:
            path, content = memory.path[1:], (memory.content or "").encode()
            try:
                await to_thread.run_sync(self.folder.write, path, content)
            except OSError as error:
                log.warning("memory_not_written", memory_id=memory.id, error=error.strerror)
            else:
                self._agree(path, memory.sha256)

    async def _pull(self, path: str, there: Memory) -> None:
        try:
            memory = await self._line.client.memory(self.attached.store_id, there.id)
        except Refused as error:
            if error.status == 404:
                return  # deleted meanwhile: the next pass sees it
            raise
        if _path_of(memory) == path:
            await self._take([memory])

    async def _push(self, path: str, digest: str, there: Memory | None) -> None:
        if self._known.refused.get(path) == digest:
            return
        content = await self._outgoing(path)
        if content is None:
            self._known.refused[path] = digest
            log.warning("memory_unfit", store_id=self.attached.store_id)
            return
        digest = hashlib.sha256(content.encode()).hexdigest()
        self._known.sent[path] = digest
        try:
            sent = await self._send(path, content, there)
        except Raced:
            # The other side was changed meanwhile, and wins; the next pass fetches it.
            self.synced = False
            log.warning("memory_conflict", store_id=self.attached.store_id)
        except Refused as error:
            if error.status not in (400, 413):
                raise
            self._known.sent.pop(path, None)
            self._known.refused[path] = digest
            log.warning("memory_refused", store_id=self.attached.store_id, status=error.status)
        else:
            self._known.sent.pop(path, None)
            self._known.refused.pop(path, None)
            self._agree(path, sent.sha256)

    async def _outgoing(self, path: str) -> str | None:
        """Return what of a file may leave, recorded, or None when it cannot be a memory.

        Secrets are masked in the file too, so that both sides hold the same.
        """
        content = await to_thread.run_sync(self.folder.read, path)
        try:
            check_path(f"/{path}")
            text = None if content is None else content.decode()
        except ValueError:
            return None
        if text is None:
            return None
        named = await self._line.way.gate.text(path)
        cleared = await self._line.way.gate.text(text)
        clean = cleared.text if cleared.allowed is None else await self._asked(cleared)
        if named.found.masked or clean is None:
            await self._withheld(named.found if named.found.masked else cleared.found)
            return None
        data = clean.encode()
        if data != content:
            await to_thread.run_sync(self.folder.write, path, data)
        sha256 = hashlib.sha256(data).hexdigest()
        fields = cleared.found.fields()
        await self._note("memory.write", OUTWARD, bytes=len(data), sha256=sha256, **fields)
        return clean

    async def _asked(self, cleared: Cleared) -> str | None:
        """Return what may leave of a text that a person is asked about; None if he refused it.

        Raises:
            Away: nobody has answered yet.
        """
        gate, releases = self._line.way.gate, self._line.way.releases
        data = (cleared.allowed or "").encode()
        excerpt = (cleared.text or "")[: gate.policy.excerpt_chars]
        what = Matter("memory", cleared.found, len(data), gate.digest(data), excerpt)
        answer = await releases.look(releases.question(what))
        if answer is None:
            raise Away("a memory waits for a person's word")
        return cleared.allowed if answer.allowed else None

    async def _withheld(self, found: Found) -> None:
        """Record that a file does not become a memory, because of what is in it."""
        await self._line.record.write(
            "memory.withheld",
            session_id=self._line.client.work.session_id,
            store_id=self.attached.store_id,
            **found.fields(),
        )

    async def _send(self, path: str, content: str, there: Memory | None) -> Memory:
        client, store_id = self._line.client, self.attached.store_id
        if there is not None:
            try:
                return await client.update_memory(store_id, there, content)
            except Refused as error:
                if error.status != 404:
                    raise
        return await client.create_memory(store_id, f"/{path}", content)

    async def _drop(self, path: str) -> None:
        base = self._known.base.get(path)
        found = await to_thread.run_sync(self.folder.digest, path)
        if found == base:
            await to_thread.run_sync(self.folder.delete, path)
        if found in (base, None):
            self._agree(path, None)

    async def _delete(self, path: str, there: Memory, deletes: _Deletes) -> None:
        """Delete a memory whose file has been gone for long enough (contract 25.20, 25.21)."""
        now_s = self._line.clock.monotonic()
        since_s = self._known.missing.setdefault(path, now_s)
        if not deletes.final and now_s - since_s < DELETE_AFTER_S:
            self.synced = False
            return
        marked = await to_thread.run_sync(self.folder.marked)
        if not marked or await to_thread.run_sync(self.folder.digest, path) is not None:
            self._known.missing.pop(path, None)
            return
        if not deletes.take():
            self.synced = False
            return
        await self._note("memory.delete", OUTWARD, memory_id=there.id, sha256=there.sha256)
        try:
            await self._line.client.delete_memory(self.attached.store_id, there)
        except Raced:
            # The other side was changed meanwhile, and wins.
            self._known.missing.pop(path, None)
            await self._pull(path, there)
            return
        except Refused as error:
            if error.status != 404:
                raise
        self._agree(path, None)

    async def _list(self) -> dict[str, Memory]:
        found = self._line.client.memories(self.attached.store_id, full=False)
        return {path: m async for m in found if (path := _path_of(m)) is not None}

    def _settle(self, remote: dict[str, Memory]) -> None:
        """Tell what arrived although its answer did not."""
        for path, digest in self._known.sent.items():
            there = remote.get(path)
            if there is not None and there.sha256 == digest:
                self._known.base[path] = digest
        self._known.sent.clear()

    def _agree(self, path: str, digest: str | None) -> None:
        self._known.missing.pop(path, None)
        if digest is None:
            self._known.base.pop(path, None)
        else:
            self._known.base[path] = digest

    async def _save(self) -> None:
        await to_thread.run_sync(self.folder.save, dict(self._known.base))

    async def _note(self, kind: str, direction: str, **fields: object) -> None:
        await self._line.record.write(
            kind,
            direction=direction,
            session_id=self._line.client.work.session_id,
            store_id=self.attached.store_id,
            **fields,
        )


def _path_of(memory: Memory) -> str | None:
    """Return where a memory lies in its folder; None for the marker's place and for no path."""
    try:
        path = check_path(memory.path)[1:]
    except ValueError:
        log.warning("memory_path_unusable", memory_id=memory.id)
        return None
    return None if path == MARKER else path
