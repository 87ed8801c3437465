"""The spares of the bubblewrap provider, and how one becomes a session's sandbox."""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from intramuros.execution.sandbox.base import SandboxError, SandboxSpec
from intramuros.execution.sandbox.drives import Drives
from intramuros.execution.sandbox.grafts import Grafter
from intramuros.execution.sandbox.launch import check_mount
from intramuros.execution.sandbox.live import LiveSandbox
from intramuros.execution.sandbox.records import Records
from intramuros.execution.sandbox.rootfs import Python
from intramuros.execution.sandbox.spares import Spare, additions
from intramuros.execution.sandbox.workspaces import Workspaces

ADOPT_S = 10.0


@dataclass(frozen=True)
class Room:
    """Where sandboxes are noted down and work: those of sessions, or the spares."""

    records: Records
    workspaces: Workspaces

    @classmethod
    def below(cls, directory: Path, drives: Drives | None) -> "Room":
        """Return the room of spares.

        On the file system of the others, so that a spare's workspace becomes a session's by name.
        """
        workspaces = Workspaces(directory / "workspaces", drives)
        return cls(Records(directory / "records"), workspaces)


class Adoptions:
    """The live spares of one provider.

    Args:
        own: where they are noted down.
        home: where the sandboxes of sessions are.
        uids: host uids of all live sandboxes, by id; shared with the provider.
    """

    def __init__(self, own: Room, home: Room, uids: MutableMapping[str, int]) -> None:
        self.own = own
        self.live: dict[str, LiveSandbox] = {}
        self._home = home
        self._uids = uids
        self._grafter = Grafter()
        self._grafts = True

    def fits(self, spare: Spare, spec: SandboxSpec) -> bool:
        """Return whether a spare can become a sandbox like that, as far as can be told.

        Raises:
            SandboxError: no sandbox can be like that.
        """
        more = additions(spare.spec, spec)
        if more is None or (more and not self._grafts):
            return False
        for mount in more:
            check_mount(mount)
        return spare.name in self.live and spare.shell.alive

    async def adopt(
        self,
        spare: Spare,
        spec: SandboxSpec,
        sandbox_id: str,
        python: Python,
        ended: Callable[[str, bool], Awaitable[None]],
    ) -> LiveSandbox:
        """Make a spare that fits the sandbox of a session that has neither record nor workspace.

        Args:
            ended: called once it is gone, as for any sandbox.

        Raises:
            SandboxError: the spare died of it; nothing is left behind.
        """
        live = self.live.pop(spare.name)
        handles = live.handles
        if handles.drive is None:
            handles = replace(handles, workspace=self._home.workspaces.path(sandbox_id))
        sandbox = LiveSandbox(sandbox_id, spec, handles, ended)
        uid = self._uids.pop(spare.name, None)
        if uid is not None:
            self._uids[sandbox_id] = uid
        try:
            self._rename(spare.name, sandbox_id)
            await self._show(sandbox, spec, len(spare.spec.mounts), uid)
            with anyio.fail_after(ADOPT_S):
                await sandbox.adopt(python)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await sandbox.destroy(keep_workspace=False)
                await self.ended(spare.name)
            if isinstance(error, OSError):
                raise SandboxError(f"{spare.name} cannot be adopted ({error})") from error
            raise
        return sandbox

    def _rename(self, name: str, sandbox_id: str) -> None:
        record = self.own.records.load(name)
        if record is None:
            raise SandboxError(f"the record of {name} is gone")
        # Noted down under both names for a moment: whenever we die, it is found.
        self._home.records.save(replace(record, sandbox_id=sandbox_id))
        self.own.workspaces.rename(name, self._home.workspaces, sandbox_id)
        self.own.records.remove(name)

    async def _show(
        self, sandbox: LiveSandbox, spec: SandboxSpec, known: int, uid: int | None
    ) -> None:
        more = spec.mounts[known:]
        for mount in more:
            if mount.owned:
                await self._home.workspaces.give(mount.source, uid)
        try:
            await self._grafter.show(sandbox.host_pid, more, uid)
        except SandboxError:
            # An old kernel, most likely: it costs one spare to find out.
            self._grafts = False
            raise

    async def ended(self, name: str, _keep_workspace: bool = False) -> None:
        """Forget a spare whose processes are gone, with its workspace, which is nobody's."""
        self.live.pop(name, None)
        self._uids.pop(name, None)
        self.own.records.remove(name)
        await self.own.workspaces.remove(name)

    async def tidy(self) -> None:
        """Remove workspaces that no spare is noted down for."""
        for name in self.own.workspaces.all():
            if name not in self.live and self.own.records.load(name) is None:
                await self.own.workspaces.remove(name)

    def close(self) -> None:
        """End the helper process. Idempotent."""
        self._grafter.close()
