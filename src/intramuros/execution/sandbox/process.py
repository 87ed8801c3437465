"""Sandboxes that are none: the same tools in ordinary processes of the worker's user.

For hosts on which nothing else works, and for finding out why it does not. What a model runs here
can do all that the worker's user can, read the worker's own keys among it; so it is used only where
an operator names it, and says so each time.
"""

import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from intramuros.execution.sandbox import birth, bwrap, processes
from intramuros.execution.sandbox.admission import verify
from intramuros.execution.sandbox.adoptions import Room
from intramuros.execution.sandbox.base import (
    WORKSPACE,
    Capabilities,
    Finding,
    Level,
    Mount,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
    ToolOutcome,
)
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.cgroups import Group
from intramuros.execution.sandbox.launch import Places
from intramuros.execution.sandbox.live import Ended, Handles, LiveSandbox
from intramuros.execution.sandbox.records import Record, identify
from intramuros.execution.sandbox.rootfs import Python
from intramuros.execution.sandbox.runtime import command
from intramuros.execution.sandbox.zygote import Request
from intramuros.kernel.telemetry import logger

WHAT: Final = (
    "sandboxes isolate nothing: what a model runs can do all that this user can, and read the"
    " worker's keys"
)
FIX: Final = "name another provider (bubblewrap, oci, gvisor) unless you are debugging one"
_PATH_ARGUMENTS: Final = ("file_path", "path")
# Orphans become children of our process, by which they are found when it ends.
_ADOPT: Final = (
    "import _ctypes; _ctypes.call_function("
    "_ctypes.dlsym(_ctypes.dlopen(None, 0), 'prctl'), (36, 1, 0, 0, 0)); "
)
_log = logger("sandbox")


class ProcessSandbox(LiveSandbox):
    """A supervisor and what it started, in the workspace's directory of the host."""

    def __init__(self, sandbox_id: str, spec: SandboxSpec, handles: Handles, ended: Ended) -> None:
        shown = [(mount.target, str(mount.source)) for mount in spec.mounts]
        mounts = tuple(replace(mount, target=str(mount.source)) for mount in spec.mounts)
        super().__init__(sandbox_id, replace(spec, mounts=mounts), handles, ended)
        self._workdir = str(handles.workspace)
        self._scratch = ()  # those are the host's
        self._places = [*shown, (WORKSPACE, self._workdir)]

    def network(self) -> int:
        """Raise: it has the host's network, in which nothing may be opened for it."""
        raise SandboxError(f"sandbox {self.sandbox_id} has no network of its own")

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        """Run one tool of the agent toolset, its paths led to where things are on this host."""
        led = dict(arguments)
        for name in _PATH_ARGUMENTS:
            if tool != "bash" and isinstance(led.get(name), str):
                led[name] = self._lead(led[name])
        return await super().call(tool, led)

    def _lead(self, path: str) -> str:
        wanted = PurePosixPath(path)
        for target, source in self._places:
            if wanted.is_relative_to(target):
                return str(PurePosixPath(source) / wanted.relative_to(target))
        return path

    async def destroy(self, *, keep_workspace: bool = True) -> None:
        """Kill every process of its that is still below ours. Idempotent."""
        if self.alive:
            processes.signal_tree(self.host_pid, signal.SIGKILL)
        await super().destroy(keep_workspace=keep_workspace)

    def _settings(self, python: Python) -> dict[str, bytes]:
        # The kernel counts the processes of a user, and this user has others.
        return {**super()._settings(python), "processes": b"-1"}

    def _environment(self, python: Python) -> dict[str, str]:
        given = super()._environment(python)
        return {**given, "HOME": self._workdir}


class ProcessProvider(BubblewrapProvider):
    """Makes sandboxes that are none.

    Args:
        state_dir: directory of this worker alone; holds workspaces and records.
    """

    name = "process"
    separate = False

    @property
    def capabilities(self) -> Capabilities:
        """What this host allows."""
        known = super().capabilities
        return replace(
            known, isolation="none", distinct_uids=False, egress=False, gpu=False, snapshots=False
        )

    def probe(self) -> list[Finding]:
        """Examine the host; the first finding is what this provider is."""
        return [Finding(Level.WARNING, WHAT, FIX), *bwrap.probe_ground(), self._probe_disk()]

    def find_binary(self) -> Path:
        """Return the shell: no program makes namespaces here."""
        return Path("/bin/sh")

    # A workspace that is renamed would no longer be where the shell believes it is.
    prepare = None  # type: ignore[assignment]  # so that nobody takes it for a Sparing

    async def _settle(self, sandbox: LiveSandbox, python: Python, group: Group | None) -> None:
        await verify(group, sandbox.host_pid, partial(sandbox.configure, python))

    def _choose_uid(self, sandbox_id: str, owner: int | None) -> int | None:
        return None  # the worker's own

    async def _start(
        self,
        spec: SandboxSpec,
        record: Record,
        places: Places,
        group: Group | None,
        room: Room,
    ) -> LiveSandbox:
        _log.warning("sandbox_isolates_nothing", sandbox=record.sandbox_id, what=WHAT, fix=FIX)
        _refuse(spec)
        for mount in spec.mounts:
            _link(places.workspace, mount)
        python = _on_host(places.python)
        *start, boot = command(python, str(places.runtime / "lib"))
        request = Request(
            argv=[*start, _ADOPT + boot],
            program=python.inside,
            fds={0: 2, 1: 2, 2: 1, 3: 0},
            cgroups=group.procs if group else [],
            stage=[],
            scratch=[],
            uid=None,
            gid=None,
            bare=True,
        )
        with birth.ends() as ends:
            pid, pidfd = await self._zygote.launch(request, ends.sent)
            with birth.unborn(pidfd):
                ends.handed()
                room.records.save(replace(record, outer=identify(pid)))
                handles = Handles(ends.channel, pidfd, pid, group, places.workspace, direct=True)
                sandbox = ProcessSandbox(record.sandbox_id, spec, handles, self._ended)
            await self._await_ready(sandbox, python, group, ends.errors)
        return sandbox


def _refuse(spec: SandboxSpec) -> None:
    """Refuse what would be a promise.

    Raises:
        SandboxUnavailable: the spec wants what only a sandbox has.
    """
    if spec.rootfs is not None:
        raise SandboxUnavailable(
            "sandboxes of 'process' cannot show an image", "leave it out, or name oci"
        )
    if spec.devices:
        raise SandboxUnavailable(
            "sandboxes of 'process' see all devices of the host", "leave gpus out"
        )
    if spec.egress != "none":
        raise SandboxUnavailable(
            "sandboxes of 'process' have the host's network and cannot be held to names",
            "leave egress out, or name another provider",
        )


def _on_host(python: Python) -> Python:
    """Return the interpreter by the path it has outside."""
    if python.host_prefix is None:
        return python
    return Python(str(python.host_prefix / "bin" / Path(python.inside).name))


def _link(workspace: Path, mount: Mount) -> None:
    """Show what belongs below the workspace there, for programs; tools are led to the rest."""
    target = PurePosixPath(mount.target)
    if not target.is_relative_to(WORKSPACE) or target == PurePosixPath(WORKSPACE):
        return
    link = workspace / target.relative_to(WORKSPACE)
    if link.parent != workspace:
        raise SandboxError(f"sandboxes of 'process' cannot show {mount.target}")
    with suppress(FileNotFoundError):
        if link.is_symlink():
            link.unlink()
    if not link.exists():
        link.symlink_to(mount.source)
