"""The default provider: Linux namespaces through the bubblewrap binary, root or not."""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
from anyio import to_thread

from intramuros.execution.sandbox import birth, bwrap, leftovers, runtime
from intramuros.execution.sandbox.admission import verify
from intramuros.execution.sandbox.adoptions import Adoptions, Room
from intramuros.execution.sandbox.base import (
    Capabilities,
    Finding,
    Level,
    SandboxBusy,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
)
from intramuros.execution.sandbox.cgroups import (
    Group,
    Groups,
    find_groups,
    hurry,
    make_group,
    planned,
)
from intramuros.execution.sandbox.drives import Drives, disk_finding
from intramuros.execution.sandbox.etc import Etc
from intramuros.execution.sandbox.launch import (
    CHANNEL_FD,
    SECCOMP_FD,
    Places,
    plan,
)
from intramuros.execution.sandbox.live import Handles, LiveSandbox
from intramuros.execution.sandbox.records import (
    Identity,
    Record,
    Records,
    check_id,
    choose_uid,
    identify,
    is_alive,
    kill,
)
from intramuros.execution.sandbox.rootfs import Python, find_python
from intramuros.execution.sandbox.spares import Spare
from intramuros.execution.sandbox.workspaces import Workspace, Workspaces
from intramuros.execution.sandbox.zygote import Request, Zygote
from intramuros.kernel import seccomp
from intramuros.kernel.telemetry import logger

READY_S = 10.0
_DEATH_S = 5.0
_WATCH_S = 2.0
_PARTS = (
    "sandboxes",
    "workspaces",
    "drives",
    "runtime",
    "spares/records",
    "spares/workspaces",
)
_log = logger("sandbox")


@dataclass(frozen=True)
class Host:
    """What :meth:`BubblewrapProvider.start` found out."""

    python: Python
    runtime: runtime.Runtime
    groups: Groups
    worker: Identity


class BubblewrapProvider:
    """Sandboxes out of namespaces, seccomp and control groups.

    Args:
        state_dir: directory of this worker alone; holds workspaces and records.
    """

    name = "bubblewrap"
    separate = True
    """Whether its sandboxes have mounts of their own, and so can have drives."""

    def __init__(self, state_dir: Path) -> None:
        self._state = state_dir
        self._root = os.geteuid() == 0
        self._records = Records(state_dir / "sandboxes")
        self._drives = Drives(state_dir / "drives") if self.separate else None
        self._workspaces = Workspaces(state_dir / "workspaces", self._drives)
        self._room = Room(self._records, self._workspaces)
        self._etc = Etc(state_dir / "runtime")
        self._zygote = Zygote()
        self._host: Host | None = None
        self._live: dict[str, LiveSandbox] = {}
        self._creating: set[str] = set()
        self._uids: dict[str, int] = {}
        spares = Room.below(state_dir / "spares", self._drives)
        self._spares = Adoptions(spares, self._room, self._uids)

    @property
    def capabilities(self) -> Capabilities:
        """What this host allows; examines it when :meth:`start` has not run yet."""
        groups = self._host.groups if self._host else find_groups()
        return Capabilities(
            isolation="namespaces",
            pause="freezer" if "freezer" in groups.parents else "signal",
            memory_limit="cgroup" if "memory" in groups.parents else "per-process",
            cpu_limit="cpu" in groups.parents,
            disk_quota="watched" if self._drives is None or self._drives.lack else "hard",
            distinct_uids=self._root,
            egress=True,
            snapshots=True,
            gpu=True,
            ssh=True,
        )

    def probe(self) -> list[Finding]:
        """Examine the host: binary, user namespaces, interpreter, groups, filter, disk."""
        return [*bwrap.probe(), self._probe_disk()]

    def _probe_disk(self) -> Finding:
        lack = None if self._drives is None else self._drives.lack
        return disk_finding(lack, as_root=self._root)

    def find_binary(self) -> Path:
        """Return the program that makes the namespaces."""
        return bwrap.find_binary()

    def explain(self, said: str) -> SandboxError | SandboxUnavailable:
        """Return the error for a sandbox that did not come up, from what was said."""
        return bwrap.explain(said)

    async def start(self) -> None:
        """Check the host, make the state directory and build the runtime; idempotent.

        Raises:
            SandboxUnavailable: with the first failing finding.
        """
        if self._host is not None:
            return
        for finding in await to_thread.run_sync(self.probe):
            if finding.level is Level.FAILURE:
                raise SandboxUnavailable(finding.what, finding.fix)
            if finding.level is Level.WARNING:
                _log.warning("sandbox_host_limited", what=finding.what, fix=finding.fix)
        try:
            for part in _PARTS:
                (self._state / part).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise SandboxUnavailable(
                f"cannot write the sandbox state directory {self._state} ({error.strerror})",
                "choose a directory this user may write",
            ) from error
        python = find_python()
        worker = identify(os.getpid())
        if worker is None:
            raise SandboxUnavailable("/proc is not readable", "mount /proc")
        self._host = Host(
            python=python,
            runtime=await runtime.build(self._state / "runtime", python, self.find_binary()),
            groups=find_groups(),
            worker=worker,
        )

    async def create(self, spec: SandboxSpec, sandbox_id: str) -> LiveSandbox:
        """Create a sandbox over its workspace, which an earlier one of this id may have left."""
        check_id(sandbox_id)
        host = await self._started()
        await self._claim(sandbox_id)
        try:
            return await self._create(host, spec, sandbox_id)
        finally:
            self._creating.discard(sandbox_id)

    async def _started(self) -> Host:
        await self.start()
        if self._host is None:
            raise SandboxError("the provider did not start")
        return self._host

    async def _claim(self, sandbox_id: str) -> None:
        """Let nobody else create this sandbox until its id is given back."""
        earlier = self._live.get(sandbox_id)
        if earlier is not None:
            if earlier.alive:
                raise SandboxBusy(f"sandbox {sandbox_id} is live")
            await earlier.destroy()
        if sandbox_id in self._creating:
            raise SandboxBusy(f"sandbox {sandbox_id} is being created")
        self._creating.add(sandbox_id)

    async def _create(self, host: Host, spec: SandboxSpec, sandbox_id: str) -> LiveSandbox:
        await self._clear_earlier(sandbox_id)
        try:
            sandbox = await self._make(host, spec, sandbox_id, self._room)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._clear_earlier(sandbox_id, own=True)
                # It may have come no further than that: no record says so then.
                self._uids.pop(sandbox_id, None)
                await self._workspaces.close(sandbox_id)
            raise
        self._live[sandbox_id] = sandbox
        return sandbox

    async def prepare(self, spec: SandboxSpec) -> Spare:
        """Start a sandbox that belongs to nobody."""
        host = await self._started()
        name = f"spare-{secrets.token_hex(8)}"
        try:
            sandbox = await self._make(host, spec, name, self._spares.own)
            self._spares.live[name] = sandbox
            await sandbox.warm()
        except BaseException:
            with anyio.CancelScope(shield=True):
                made = self._spares.live.get(name)
                if made is not None:
                    # Its channel and the descriptor of its process are ours to close.
                    await made.destroy(keep_workspace=False)
                record = self._spares.own.records.load(name)
                if record is not None:
                    await self._clear(record, self._spares.own)
                await self._spares.ended(name)
            raise
        return Spare(name, spec, sandbox)

    async def adopt(self, spare: Spare, spec: SandboxSpec, sandbox_id: str) -> LiveSandbox | None:
        """Make a spare the sandbox of a session that has no workspace yet."""
        check_id(sandbox_id)
        host = await self._started()
        if not self._spares.fits(spare, spec):
            return None
        await self._claim(sandbox_id)
        try:
            await self._clear_earlier(sandbox_id)
            if self._workspaces.exists(sandbox_id):
                return None
            python = self._python_of(spec, host)
            made = await self._spares.adopt(spare, spec, sandbox_id, python, self._ended)
            self._live[sandbox_id] = made
            return made
        finally:
            self._creating.discard(sandbox_id)

    async def _make(
        self, host: Host, spec: SandboxSpec, sandbox_id: str, room: Room
    ) -> LiveSandbox:
        workspace = await self._open(host.groups, room, sandbox_id, spec)
        uid = self._choose_uid(sandbox_id, workspace.owner)
        await room.workspaces.give(workspace.path, uid)
        for mount in spec.mounts:
            if mount.owned:
                await self._workspaces.give(mount.source, uid)
        name = leftovers.name_of(host.worker, sandbox_id)
        # Noted down before they are made: whenever we are killed, somebody knows of them.
        wanted = planned(host.groups, name).paths.values()
        record = Record(sandbox_id, host.worker, cgroups=list(map(str, wanted)), uid=uid)
        room.records.save(record)
        group = self._make_group(host.groups, name, spec)
        places = Places(
            host.runtime.directory,
            host.runtime.binary,
            workspace.path,
            self._python_of(spec, host),
            workspace.drive,
        )
        return await self._start(spec, record, places, group, room)

    async def _open(
        self, groups: Groups, room: Room, sandbox_id: str, spec: SandboxSpec
    ) -> Workspace:
        """Open the workspace while the kernel gets ready for the groups."""
        failure: SandboxError | None = None
        workspace = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(to_thread.run_sync, hurry, groups, abandon_on_cancel=True))
            await anyio.lowlevel.checkpoint()
            try:
                workspace = await room.workspaces.open(sandbox_id, spec.limits)
            except SandboxError as error:
                failure = error  # raised below: a task group would wrap it
            except OSError as error:
                failure = SandboxError(f"the workspace cannot be opened ({error.strerror})")
            tasks.cancel_scope.cancel()
        if workspace is None:
            raise failure or SandboxError("the workspace cannot be opened")
        return workspace

    def _choose_uid(self, sandbox_id: str, owner: int | None) -> int | None:
        if not self._root:
            return None
        taken = {uid for key, uid in self._uids.items() if key != sandbox_id}
        try:
            uid = choose_uid(sandbox_id, Path("/proc/self/uid_map").read_text(), taken, owner)
        except ValueError as error:
            raise SandboxUnavailable(
                f"sandboxes need a user id of their own and {error}",
                "run the worker as an ordinary user, or map more ids into its container",
            ) from error
        self._uids[sandbox_id] = uid
        return uid

    def _make_group(self, groups: Groups, name: str, spec: SandboxSpec) -> Group | None:
        if not groups.parents:
            return None
        try:
            return make_group(groups, name, spec.limits)
        except OSError as error:
            raise SandboxError(f"cannot set the sandbox's limits ({error})") from error

    def _python_of(self, spec: SandboxSpec, host: Host) -> Python:
        if spec.rootfs is None:
            return host.python
        if not (spec.rootfs / "usr/bin/python3").exists():
            raise SandboxUnavailable(
                f"the root file system {spec.rootfs} has no /usr/bin/python3",
                "install python3 (3.9 or newer) in it",
            )
        return Python("/usr/bin/python3")

    async def _start(
        self,
        spec: SandboxSpec,
        record: Record,
        places: Places,
        group: Group | None,
        room: Room,
    ) -> LiveSandbox:
        machine = os.uname().machine
        filtered = seccomp.supported(machine)
        uid = os.geteuid() if record.uid is None else record.uid
        if spec.rootfs is None:
            # A look at some times of files, and seldom the copying of some.
            wanted = {"resolving": spec.egress == "names", "trusting": spec.trust is not None}
            places = replace(places, etc=self._etc.prepare(**wanted))
        shape = plan(spec, places, uid=uid, seccomp=filtered)
        fds = {0: 2, 1: 2, 2: 1, CHANNEL_FD: 0}
        files = []
        if filtered:
            files.append(seccomp.assemble(machine))
            fds[SECCOMP_FD] = 3
        request = Request(
            argv=shape.argv,
            program=shape.program,
            fds=fds,
            stage=shape.stage,
            scratch=shape.scratch,
            uid=record.uid,
            gid=record.uid,
            cgroups=group.procs if group else [],
            drive=places.device,
        )
        with birth.ends(*files) as ends:
            pid, pidfd = await self._zygote.launch(request, ends.sent)
            with birth.unborn(pidfd):
                ends.handed()
                room.records.save(replace(record, outer=identify(pid)))
                handles = Handles(ends.channel, pidfd, pid, group, places.workspace, places.drive)
                ended = self._ended if room is self._room else self._spares.ended
                sandbox = LiveSandbox(record.sandbox_id, spec, handles, ended)
            await self._await_ready(sandbox, places.python, group, ends.errors)
        return sandbox

    async def _await_ready(
        self, sandbox: LiveSandbox, python: Python, group: Group | None, errors: int
    ) -> None:
        """Wait until process 1 serves; otherwise destroy it and say what was said on ``errors``."""
        try:
            with anyio.fail_after(READY_S):
                await self._settle(sandbox, python, group)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await sandbox.destroy()
            if isinstance(error, SandboxError | TimeoutError):
                said = os.pread(errors, 4096, 0).decode("utf-8", "replace").strip()
                raise self.explain(said or str(error)) from error
            raise

    async def _settle(self, sandbox: LiveSandbox, python: Python, group: Group | None) -> None:
        """Wait until a sandbox serves and is in its groups."""
        await verify(group, sandbox.host_pid, partial(sandbox.configure, python))

    async def _ended(self, sandbox_id: str, keep_workspace: bool) -> None:
        """Forget a sandbox whose processes are gone."""
        self._live.pop(sandbox_id, None)
        self._uids.pop(sandbox_id, None)
        self._records.remove(sandbox_id)
        if keep_workspace:
            await self._workspaces.close(sandbox_id)
        else:
            await self._workspaces.remove(sandbox_id)

    async def sweep(self) -> list[str]:
        """Kill and remove what dead workers left; workspaces stay, but those of spares."""
        cleaned = []
        for room, live in ((self._room, self._live), (self._spares.own, self._spares.live)):
            for record in room.records.all():
                if record.sandbox_id not in live and not is_alive(record.worker):
                    await self._clear(record, room)
                    cleaned.append(record.sandbox_id)
        await self._spares.tidy()
        if self._drives is not None:
            self._drives.tidy()
        groups = self._host.groups if self._host else find_groups()
        left = await to_thread.run_sync(leftovers.remove_left, groups)
        if left:
            _log.info("cgroups_removed", count=len(left))
        return cleaned

    async def watch(self) -> None:
        """Hold live sandboxes to their disk quota, and have a drive ready, until cancelled."""
        async with anyio.create_task_group() as tasks:
            if self._drives is not None:
                tasks.start_soon(self._drives.keep)
            await self._watch_quotas()

    async def _watch_quotas(self) -> None:
        while True:
            await anyio.sleep(_WATCH_S)
            for sandbox in list(self._live.values()):
                await sandbox.enforce_quota()
            await self._workspaces.trim()

    async def _clear_earlier(self, sandbox_id: str, *, own: bool = False) -> None:
        """Clear what an earlier sandbox of this id left.

        Raises:
            SandboxBusy: it belongs to another worker that is alive.
        """
        record = self._records.load(sandbox_id)
        if record is None:
            return
        mine = self._host is not None and record.worker == self._host.worker
        if not mine and not own and is_alive(record.worker):
            raise SandboxBusy(f"sandbox {sandbox_id} is live in worker process {record.worker.pid}")
        await self._clear(record)

    async def _clear(self, record: Record, room: Room | None = None) -> None:
        group = Group(0, {path: Path(path) for path in record.cgroups})
        with anyio.move_on_after(_DEATH_S, shield=True):
            while True:
                if record.outer is not None:
                    kill(record.outer)
                thaw(group)
                inside = group.pids()
                for pid in inside:
                    with suppress(ProcessLookupError):
                        os.kill(pid, 9)
                gone = record.outer is None or not is_alive(record.outer)
                if gone and not inside and group.remove():
                    break
                await anyio.sleep(0.002)
            await (room or self._room).workspaces.close(record.sandbox_id)
            (room or self._room).records.remove(record.sandbox_id)
            self._uids.pop(record.sandbox_id, None)
            return
        _log.error("sandbox_not_cleared", sandbox=record.sandbox_id)

    async def forget(self, sandbox_id: str) -> None:
        """Remove the workspace of a sandbox that is not live."""
        check_id(sandbox_id)
        if sandbox_id in self._live:
            raise SandboxBusy(f"sandbox {sandbox_id} is live")
        await self._workspaces.remove(sandbox_id)

    async def aclose(self) -> None:
        """Destroy all live sandboxes and end the launcher."""
        for sandbox in [*self._live.values(), *self._spares.live.values()]:
            await sandbox.destroy()
        self._zygote.close()
        self._spares.close()
        self._host = None


def thaw(group: Group) -> None:
    """Release a group that was left frozen, whichever version: frozen processes do not die."""
    for path in set(group.paths.values()):
        for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with suppress(OSError):
                if (path / file).exists():
                    (path / file).write_text(value)
