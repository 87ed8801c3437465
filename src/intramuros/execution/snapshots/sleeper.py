"""Put sandboxes away and wake them, so that a kill at any point loses nothing that was kept.

Putting away, each step durable before the next::

    audit → data → manifest → head → destroy the sandbox → remove its workspace → forget the entry

The head is the point of no return: before it, the workspace on this disk is what counts; after it,
the snapshot. Waking::

    audit → entry "half" → clear the workspace → create → load → entry "whole"

A workspace whose entry says half, or has another number than the head, is worth nothing: it is
cleared and restored again, here or on whichever worker claims the session.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import anyio
from anyio import to_thread

from intramuros.execution.record import Record, RecordFailed
from intramuros.execution.sandbox.base import Sandbox, SandboxError
from intramuros.execution.sandbox.keeping import (
    MAX_SCRIPT_BYTES,
    Keepable,
    Keeper,
    Told,
)
from intramuros.execution.snapshots import words
from intramuros.execution.snapshots.catalogue import (
    EXPIRED,
    Catalogue,
    Head,
    Manifest,
    key_of,
    new_id,
    new_key,
)
from intramuros.execution.snapshots.ledger import Entry, Ledger
from intramuros.execution.snapshots.sealed import Damaged
from intramuros.execution.snapshots.shelf import ShelfError
from intramuros.execution.snapshots.streams import ahead, fetch, store
from intramuros.kernel.telemetry import logger

log = logger("snapshots")

ORPHAN_AGE_S: Final = 24 * 3600.0
NO_SCRIPT: Final = 0xFFFFFFFF
_FAILURES: Final = (ShelfError, Damaged, OSError, RecordFailed)


@dataclass(frozen=True)
class Terms:
    """What an operator decided."""

    worker: str
    """The worker's id, for the record."""
    max_bytes: int
    """Of one stored snapshot."""
    expire_after_s: float = 0.0
    """Age at which a sleeping session's snapshot is removed; 0 keeps it for ever."""


@dataclass(frozen=True)
class Wake:
    """A session that is to be restored: ``manifest`` is None when there is nothing left of it."""

    session_id: str
    head: Head
    manifest: Manifest | None
    missed: bool
    """Whether somebody woke it from there before, and did not put it away again."""


Make = Callable[[], Awaitable[Sandbox]]
Clear = Callable[[], Awaitable[None]]


def no_step(_name: str) -> None:
    """Stands where a test may end the process between two steps."""


class Sleeper:
    """Snapshots of one worker. Whoever calls holds the session."""

    def __init__(
        self,
        catalogue: Catalogue,
        ledger: Ledger,
        record: Record,
        terms: Terms,
        step: Callable[[str], None] = no_step,
    ) -> None:
        self.catalogue = catalogue
        self._ledger = ledger
        self._record = record
        self._terms = terms
        self._step = step

    async def save(self, session_id: str, sandbox: Sandbox, name: str = "") -> Manifest:
        """Store a snapshot of a live sandbox, which goes on; no session wakes from it by itself.

        Raises:
            SandboxError: it could not be made; nothing changed.
        """
        if not isinstance(sandbox, Keepable):
            raise SandboxError("this provider's sandboxes cannot be put away as files")
        keeper = sandbox.keeper
        if keeper.channel.busy:
            raise SandboxError("a call is running in the sandbox; try again when it has ended")
        snapshot_id, key = new_id(), new_key()
        draft = Manifest(
            snapshot_id,
            session_id,
            self._terms.worker,
            self._record.clock.now().timestamp(),
            "files",
            0,
            0,
            0,
            key,
            name=name,
        )
        try:
            await self._record.write(
                "snapshot.create", session_id=session_id, snapshot_id=snapshot_id, name=name
            )
            told = await keeper.tell()
            stored = await store(
                self.catalogue.shelf,
                f"data/{snapshot_id}",
                key_of(draft),
                _saved(keeper, told),
                self._terms.max_bytes,
            )
            self._step("data")
            manifest = replace(
                draft,
                entries=keeper.facts.entries,
                data_bytes=keeper.facts.data_bytes,
                stored_bytes=stored,
                lost=words.losses(keeper.facts, told),
                untold=await self.notice(session_id),
            )
            await to_thread.run_sync(self.catalogue.add, manifest)
            self._step("manifest")
        except _FAILURES as error:
            raise SandboxError(f"the sandbox could not be put away: {error}") from error
        return manifest

    async def commit(self, manifest: Manifest) -> Head:
        """Let the session wake from a snapshot of it: the point of no return.

        Raises:
            SandboxError: it does not; what it woke from before still counts.
        """
        try:
            head = await to_thread.run_sync(
                self.catalogue.advance, manifest.session_id, manifest.id
            )
            self._step("head")
            await self._record.write(
                "sandbox.away",
                session_id=manifest.session_id,
                snapshot_id=manifest.id,
                number=head.number,
                entries=manifest.entries,
                bytes=manifest.stored_bytes,
            )
        except RecordFailed as error:
            # It is away already; what follows needs no leave.
            log.error("not_recorded", kind="sandbox.away", error=str(error))
        except _FAILURES as error:
            raise SandboxError(f"the sandbox could not be put away: {error}") from error
        return head

    async def settle(self, session_id: str, head: Head, clear: Clear) -> None:
        """The sandbox is gone: remove its workspace, and the snapshot that was replaced."""
        self._step("destroyed")
        await clear()
        self._step("workspace")
        try:
            await to_thread.run_sync(self._ledger.remove, session_id)
            self._step("entry")
            await to_thread.run_sync(self.catalogue.retire, session_id, head)
            self._step("retired")
        except _FAILURES as error:
            # The next time it is put away this is done again.
            log.warning("snapshots_not_tidied", session_id=session_id, error=str(error))

    async def note(self, session_id: str, head: Head) -> None:
        """The sandbox lives on after it was stored: this disk and the head agree."""
        try:
            await to_thread.run_sync(self._ledger.write, session_id, Entry(head.number, True))
            await to_thread.run_sync(self.catalogue.mark_woken, session_id, head)
            await to_thread.run_sync(self.catalogue.retire, session_id, head)
        except _FAILURES as error:
            log.warning("snapshots_not_tidied", session_id=session_id, error=str(error))

    async def current(self, session_id: str, head: Head) -> bool:
        """Tell whether nobody put the session away since; when in doubt, False.

        Raises:
            SandboxError: the store does not answer.
        """
        try:
            return await to_thread.run_sync(self.catalogue.head, session_id) == head
        except _FAILURES as error:
            raise SandboxError(f"it is not known where the session sleeps: {error}") from error

    async def due(self, session_id: str) -> Wake | None:
        """Return what a session is to be restored from; None if the workspace here is right.

        Raises:
            SandboxError: it cannot be known, so no sandbox must be made.
        """
        try:
            head = await to_thread.run_sync(self.catalogue.head, session_id)
            if head is None:
                return None
            entry = await to_thread.run_sync(self._ledger.read, session_id)
            if entry is not None and entry.whole and entry.number == head.number:
                return None
            manifest = None
            if head.snapshot_id != EXPIRED:
                manifest = await to_thread.run_sync(self.catalogue.manifest, head.snapshot_id)
            again = entry is not None and entry.number == head.number
            woken = await to_thread.run_sync(self.catalogue.was_woken, session_id, head)
        except _FAILURES as error:
            raise SandboxError(f"the session's sandbox cannot be woken: {error}") from error
        return Wake(session_id, head, manifest, missed=woken and not again)

    async def wake(self, wake: Wake, make: Make, clear: Clear) -> Sandbox:
        """Return a new sandbox with what was put away in it.

        Args:
            make: makes the sandbox, over an empty workspace.
            clear: removes the workspace; nothing of the session may be live.

        Raises:
            SandboxError: it could not be restored; the snapshot is as it was.
        """
        session_id, manifest = wake.session_id, wake.manifest
        try:
            await self._record.write(
                "sandbox.wake",
                session_id=session_id,
                snapshot_id=wake.head.snapshot_id,
                number=wake.head.number,
            )
            await to_thread.run_sync(self._ledger.write, session_id, Entry(wake.head.number, False))
            self._step("begun")
            await clear()
            self._step("cleared")
        except _FAILURES as error:
            raise SandboxError(f"the session's sandbox cannot be woken: {error}") from error
        sandbox = await make()
        try:
            self._step("created")
            notice = words.expired() if manifest is None else await self._fill(manifest, sandbox)
            if manifest is not None and wake.missed:
                notice = f"{words.away(manifest.created_at)}\n\n{notice}".strip()
            self._step("loaded")
            await to_thread.run_sync(self.catalogue.mark_woken, session_id, wake.head)
            entry = Entry(wake.head.number, True, notice)
            await to_thread.run_sync(self._ledger.write, session_id, entry)
            self._step("whole")
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await sandbox.destroy()
            if isinstance(error, _FAILURES):
                raise SandboxError(f"the session's sandbox cannot be woken: {error}") from error
            raise
        return sandbox

    async def _fill(self, manifest: Manifest, sandbox: Sandbox) -> str:
        """Load a snapshot into a fresh sandbox; returns what the session is to be told."""
        if not isinstance(sandbox, Keepable):
            raise SandboxError("this provider's sandboxes cannot be restored from files")
        keeper = sandbox.keeper
        scripts: list[bytes] = []
        lost = 0

        async def load(arriving: AsyncIterable[bytes]) -> None:
            nonlocal lost
            lost = await keeper.load(_without_script(arriving, scripts))

        stored = fetch(self.catalogue.shelf, f"data/{manifest.id}", key_of(manifest))
        await ahead(stored, load)
        complaints = await keeper.adopt(scripts[0]) if scripts else []
        if lost:
            complaints.append(f"{lost} extended attributes of files could not be set")
        said = words.woken(manifest.created_at, manifest.lost, complaints)
        return words.cut("\n\n".join(filter(None, (manifest.untold, said))))

    async def begin(self, session_id: str) -> None:
        """A sandbox is made over the workspace here, new or what one that was lost has left."""
        try:
            entry = await to_thread.run_sync(self._ledger.read, session_id)
            if entry is None:
                # Nothing hangs on it but a notice: it may get lost with the machine.
                first = partial(self._ledger.write, durable=False)
                await to_thread.run_sync(first, session_id, Entry(0, True))
                return
            notice = "\n\n".join(filter(None, (entry.notice, words.lost())))
            told = replace(entry, notice=words.cut(notice))
            if words.lost() not in entry.notice:
                await to_thread.run_sync(self._ledger.write, session_id, told)
        except OSError as error:
            log.warning("notice_not_kept", session_id=session_id, error=str(error))

    async def notice(self, session_id: str) -> str:
        """Return what the session is still to be told, until :meth:`told`."""
        try:
            entry = await to_thread.run_sync(self._ledger.read, session_id)
        except OSError as error:
            log.warning("notice_unreadable", error=str(error))
            return ""
        return "" if entry is None else entry.notice

    async def told(self, session_id: str) -> None:
        """What the session was to be told is on its way."""
        try:
            entry = await to_thread.run_sync(self._ledger.read, session_id)
            if entry is not None and entry.notice:
                bare = replace(entry, notice="")
                await to_thread.run_sync(self._ledger.write, session_id, bare)
        except OSError as error:
            # It is told once more: better than not at all.
            log.warning("notice_not_settled", error=str(error))

    async def tidy(self) -> None:
        """Remove what expired, and what workers that died left behind."""
        try:
            await to_thread.run_sync(self._expire)
            before = self._record.clock.now().timestamp() - ORPHAN_AGE_S
            await to_thread.run_sync(self.catalogue.sweep, before)
        except _FAILURES as error:
            log.warning("snapshots_not_tidied", error=str(error))

    def _expire(self) -> None:
        now = self._record.clock.now().timestamp()
        age_s = self._terms.expire_after_s or float("inf")
        for manifest in list(self.catalogue.manifests()):
            ends = manifest.expires_at
            if ends is None and not manifest.name:
                ends = manifest.created_at + age_s
            if ends is None or ends > now:
                continue
            self._record.note(
                "snapshot.expire", session_id=manifest.session_id, snapshot_id=manifest.id
            )
            self.catalogue.expire(manifest)

    async def forget(self, session_id: str) -> None:
        """The session was deleted: remove its snapshots without a name."""
        try:
            await to_thread.run_sync(self._ledger.remove, session_id)
            await to_thread.run_sync(self.catalogue.forget, session_id)
        except _FAILURES as error:
            log.error("snapshots_not_removed", session_id=session_id, error=str(error))


async def _saved(keeper: Keeper, told: Told) -> AsyncGenerator[bytes]:
    """Yield the shell's script, its length before it, and then the files."""
    if told.script is None:
        yield NO_SCRIPT.to_bytes(4, "big")
    else:
        yield len(told.script).to_bytes(4, "big") + told.script
    async with aclosing(keeper.save()) as chunks:
        async for chunk in chunks:
            yield chunk


async def _without_script(
    arriving: AsyncIterable[bytes], scripts: list[bytes]
) -> AsyncGenerator[bytes]:
    """Yield the files; the script before them, if any, goes to ``scripts``."""
    held, length = b"", -1
    async for chunk in arriving:
        if length == 0:
            yield chunk
            continue
        held += chunk
        if length < 0 and len(held) >= 4:
            length = int.from_bytes(held[:4], "big")
            held = held[4:]
            if length == NO_SCRIPT:
                length = 0
            elif length > MAX_SCRIPT_BYTES or length == 0:
                raise Damaged("the stored shell state is too large")
        if length == 0:
            yield held
        elif 0 < length <= len(held):
            scripts.append(held[:length])
            rest, length = held[length:], 0
            yield rest
