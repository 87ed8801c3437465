"""Containers as sandboxes: what runs them is runc, crun or gVisor's runsc."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from intramuros.execution.sandbox import birth, bwrap, trees
from intramuros.execution.sandbox.admission import verify
from intramuros.execution.sandbox.adoptions import Room
from intramuros.execution.sandbox.base import (
    MIB,
    Capabilities,
    Finding,
    Level,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
)
from intramuros.execution.sandbox.bubblewrap import READY_S, BubblewrapProvider, Host
from intramuros.execution.sandbox.cgroups import Group, Groups
from intramuros.execution.sandbox.channel import Channel
from intramuros.execution.sandbox.launch import Places
from intramuros.execution.sandbox.launcher import STAGE
from intramuros.execution.sandbox.live import Handles, LiveSandbox
from intramuros.execution.sandbox.oci.carried import Carried, carry, has_program
from intramuros.execution.sandbox.oci.config import Container, compose
from intramuros.execution.sandbox.oci.guard import guarded
from intramuros.execution.sandbox.oci.runtimes import (
    CONTAINERS,
    GVISOR,
    SEARCH,
    Kind,
    Runtime,
    Whereabouts,
    find_runtime,
    find_subordinates,
)
from intramuros.execution.sandbox.records import Record, choose_uid, identify
from intramuros.execution.sandbox.rootfs import AGENT_ID, Python
from intramuros.execution.sandbox.spares import Spare, additions
from intramuros.execution.sandbox.trial import try_provider
from intramuros.execution.sandbox.zygote import Ids, Request
from intramuros.kernel import seccomp

KERNEL_BYTES: Final = 64 * MIB
"""What a kernel in user space takes for itself; about 22 MiB when idle."""
KERNEL_TASKS: Final = 96
"""Threads of such a kernel and its helper; about 54 when idle."""
HOST_TASKS_EACH: Final = 4
"""Processes and threads of the host for one of its processes."""
_RUN, _PID = "run", "pid"
_MOUNTINFO: Final = Path("/proc/self/mountinfo")


class ContainerProvider(BubblewrapProvider):
    """Sandboxes that are containers.

    Args:
        state_dir: directory of this worker alone; holds workspaces, records and bundles.
        runtime: the program that runs them, by name or path; the first there is when None.
    """

    name = "oci"
    kinds: tuple[Kind, ...] = CONTAINERS
    fix = "install a newer runc or crun, or name the other one (oci:runc, oci:crun)"

    def __init__(self, state_dir: Path, runtime: str | None = None) -> None:
        super().__init__(state_dir)
        self._named = runtime
        self._runtime: Runtime | None = None
        self._tried = False
        self._adopted: dict[str, str] = {}
        self._bundles = state_dir / "bundles"

    @property
    def capabilities(self) -> Capabilities:
        """What this host allows."""
        return replace(super().capabilities, isolation="container")

    def probe(self) -> list[Finding]:
        """Examine the host: the program, ids for containers, interpreter, groups, filter."""
        try:
            runtime = find_runtime(self.kinds, self._named)
            found = [Finding(Level.OK, f"{runtime.kind} {runtime.version} at {runtime.binary}")]
            if not self._root:
                find_subordinates()
                found.append(Finding(Level.OK, "this user has subordinate ids for containers"))
        except SandboxUnavailable as error:
            return [Finding(Level.FAILURE, error.problem, error.fix)]
        return [*found, *bwrap.probe_ground(), self._probe_disk()]

    def find_binary(self) -> Path:
        """Return the program that runs the containers."""
        self._runtime = find_runtime(self.kinds, self._named)
        return self._runtime.binary

    async def start(self) -> None:
        """Check the host, and that a container comes up; idempotent.

        Raises:
            SandboxUnavailable: with what is missing, or what this runtime cannot do here.
        """
        await super().start()
        if self._tried:
            return
        self._tried = True
        try:
            await try_provider(self)
        except SandboxError as error:
            self._tried = False
            await self.aclose()
            raise SandboxUnavailable(
                f"{self.name} does not work here: {error}", self.fix
            ) from error

    async def _start(
        self,
        spec: SandboxSpec,
        record: Record,
        places: Places,
        group: Group | None,
        room: Room,
    ) -> LiveSandbox:
        self._refuse(spec)
        ids = self._ids(record)
        bundle = self._bundles / record.sandbox_id
        carried = await self._carry(spec)
        if carried is not None:
            places = replace(places, python=carried.python)
        container = compose(
            spec,
            places,
            bundle,
            bash=carried.bash if carried else "",
            own_kernel=self.kinds == GVISOR,
            owner=AGENT_ID if record.uid is None else record.uid,
        )
        await to_thread.run_sync(self._lay_out, bundle, container, ids)
        request = self._request(container, spec, record.sandbox_id, ids, group)
        request = replace(request, drive=places.device)
        with birth.ends() as ends:
            _, started = await self._zygote.launch(request, ends.sent)
            ends.handed()
            pid, pidfd = await self._await_first(bundle, started, ends.errors)
            with birth.unborn(pidfd):
                room.records.save(replace(record, outer=identify(pid)))
                handles = self._handles(ends.channel, (pid, pidfd), group, places)
                ended = self._ended if room is self._room else self._spare_ended
                sandbox = LiveSandbox(record.sandbox_id, spec, handles, ended)
            await self._await_ready(sandbox, places.python, group, ends.errors)
        return sandbox

    def _handles(
        self, channel: Channel, first: tuple[int, int], group: Group | None, places: Places
    ) -> Handles:
        pid, pidfd = first
        return Handles(
            channel,
            pidfd,
            pid,
            group,
            places.workspace,
            places.drive,
            direct=True,
            filter=self._filter(os.uname().machine),
        )

    def _filter(self, machine: str) -> bytes:
        return seccomp.assemble(machine)

    def _host_tasks(self, spec: SandboxSpec) -> int | None:
        """Return how many processes and threads of the host one may be; None is for others to say.

        Process 1 limits itself and all below it, where the host's kernel counts those.
        """
        return None

    def _python_of(self, spec: SandboxSpec, host: Host) -> Python:
        return host.python  # where there is an image, what is carried takes its place

    def _refuse(self, spec: SandboxSpec) -> None:
        if spec.devices and not self.capabilities.gpu:
            raise SandboxUnavailable(
                f"sandboxes of {self.name!r} cannot have devices of the host",
                "use bubblewrap or oci, or leave gpus out",
            )

    async def _carry(self, spec: SandboxSpec) -> Carried | None:
        """Return what runs on an image; None without one."""
        if spec.rootfs is None or self._host is None:
            return None
        if not await to_thread.run_sync(has_program, spec.rootfs, "sh"):
            raise SandboxUnavailable(
                f"the image at {spec.rootfs} has no /bin/sh", "use an image that has a shell"
            )
        directory = self._state / "runtime"
        return await to_thread.run_sync(carry, directory, self._host.python)

    def _ids(self, record: Record) -> Ids:
        if record.uid is None:
            mine = find_subordinates()
            # Both of his own ids are inside: over files of another, root of there has no power.
            return Ids((mine.uid, os.geteuid()), (mine.gid, os.getegid()), mine.tools)
        taken = {record.uid, *self._uids.values()}
        text = Path("/proc/self/uid_map").read_text()
        root = choose_uid(f"{record.sandbox_id}-root", text, taken)
        self._uids[f"{record.sandbox_id}-root"] = root
        return Ids((root, record.uid), (root, record.uid))

    def _lay_out(self, bundle: Path, container: Container, ids: Ids) -> None:
        """Write the bundle; what an earlier container of this id left goes first."""
        try:
            self._bundles.mkdir(mode=0o700, exist_ok=True)
            trees.remove(os.fspath(bundle))
            bundle.mkdir(mode=0o755)
            container.skeleton.write(bundle / "root")
            (bundle / "config.json").write_text(json.dumps(container.config))
            (bundle / "config.json").chmod(0o644)
            run = bundle / _RUN
            run.mkdir()
            run.chmod(0o777)  # nobody else comes as far as here
            (run / _PID).touch()  # crun would make it unreadable to us
            (run / _PID).chmod(0o666)
            if self._root:
                os.chown(run, ids.uids[0], ids.gids[0])
        except OSError as error:
            raise SandboxError(f"cannot write the container's bundle ({error})") from error

    def _request(
        self,
        container: Container,
        spec: SandboxSpec,
        sandbox_id: str,
        ids: Ids,
        group: Group | None,
    ) -> Request:
        runtime = self._runtime
        if runtime is None:
            raise SandboxError("the provider did not start")
        run = f"{container.bundle}/{_RUN}"
        # What another id than ours writes in a directory of its own, we could not remove.
        state = f"{run if self._root else STAGE}/state"
        where = Whereabouts(sandbox_id, container.bundle, state, f"{run}/{_PID}")
        return Request(
            argv=runtime.command(where, network=spec.egress != "none"),
            program=container.program,
            fds={0: 0, 1: 2, 2: 1},
            cgroups=group.procs if group else [],
            stage=container.stage,
            scratch=container.scratch,
            uid=None,
            gid=None,
            contain=ids,
            overlays=container.overlays,
            hide=runtime.in_the_way(_MOUNTINFO.read_text()),
            processes=self._host_tasks(spec),
            env={"PATH": SEARCH},
        )

    async def _await_first(self, bundle: Path, started: int, errors: int) -> tuple[int, int]:
        """Wait until the runtime is done; return process 1's pid and a pidfd.

        The number is still its when its channel answers later on.

        Raises:
            SandboxError: there is none.
        """
        with birth.unborn(started):
            with anyio.move_on_after(READY_S) as waiting:
                await anyio.wait_readable(started)
            if waiting.cancelled_caught:
                raise SandboxError(f"the container did not come up within {READY_S:g} s")
        os.close(started)
        try:
            pid = int((bundle / _RUN / _PID).read_text())
            return pid, os.pidfd_open(pid)
        except (OSError, ValueError) as error:
            raise self.explain(_said(errors)) from error

    def explain(self, said: str) -> SandboxError | SandboxUnavailable:
        """Return the error for a container that did not come up, from what was said."""
        lines = [line for line in said.splitlines() if line.strip()]
        reason = lines[-1] if lines else "no reason given"
        cause = bwrap.diagnose(said) if said.startswith("launcher:") else None
        if cause is not None:
            return SandboxUnavailable(f"{cause.what} ({reason})", cause.fix)
        return SandboxError(f"the container did not come up ({reason[:400]})")

    async def _settle(self, sandbox: LiveSandbox, python: Python, group: Group | None) -> None:
        await verify(group, sandbox.host_pid, partial(sandbox.configure, python))

    async def adopt(self, spare: Spare, spec: SandboxSpec, sandbox_id: str) -> LiveSandbox | None:
        """Make a spare the sandbox of a session that needs no more mounts than it has."""
        if additions(spare.spec, spec) != ():
            return None
        root = f"{spare.name}-root"
        self._adopted[sandbox_id] = spare.name
        made = await super().adopt(spare, spec, sandbox_id)
        if made is None:
            self._adopted.pop(sandbox_id, None)
        elif root in self._uids:
            self._uids[f"{sandbox_id}-root"] = self._uids.pop(root)
        return made

    async def sweep(self) -> list[str]:
        """Kill and remove what dead workers left; workspaces stay, but those of spares."""
        cleaned = await super().sweep()
        rooms = ((self._room, self._live), (self._spares.own, self._spares.live))
        noted = [record for room, _ in rooms for record in room.records.all()]
        used = {self._adopted.get(name, name) for _, live in rooms for name in live}
        # What a record is about may have had another name when its bundle was made.
        if self._bundles.exists() and len(noted) == len(used):
            for bundle in list(self._bundles.iterdir()):
                if bundle.name not in used | self._creating:
                    await self._remove_bundle(bundle.name)
        return cleaned

    async def _ended(self, sandbox_id: str, keep_workspace: bool) -> None:
        await super()._ended(sandbox_id, keep_workspace)
        await self._remove_bundle(sandbox_id)

    async def _spare_ended(self, name: str, _keep_workspace: bool = False) -> None:
        await self._spares.ended(name)
        await self._remove_bundle(name)

    async def _clear(self, record: Record, room: Room | None = None) -> None:
        await super()._clear(record, room)
        await self._remove_bundle(record.sandbox_id)

    async def _remove_bundle(self, sandbox_id: str) -> None:
        name = self._adopted.pop(sandbox_id, sandbox_id)
        self._uids.pop(f"{sandbox_id}-root", None)
        with suppress(OSError):
            await to_thread.run_sync(trees.remove, os.fspath(self._bundles / name))


class GvisorProvider(ContainerProvider):
    """Sandboxes with a kernel of their own, in user space."""

    name = "gvisor"
    kinds: tuple[Kind, ...] = GVISOR
    fix = (
        "install a runsc of July 2024 or newer (Debian 13's package, or gvisor.dev), and name it:"
        " gvisor:/path/to/runsc"
    )

    @property
    def capabilities(self) -> Capabilities:
        """What this host allows."""
        return replace(super().capabilities, isolation="user-kernel", gpu=False)

    def _make_group(self, groups: Groups, name: str, spec: SandboxSpec) -> Group | None:
        """Limit the kernel with all that it runs; each process of its takes several of the host."""
        limits = replace(
            spec.limits,
            memory_bytes=spec.limits.memory_bytes + KERNEL_BYTES,
            pids=self._host_tasks(spec),
        )
        return super()._make_group(groups, name, replace(spec, limits=limits))

    def _handles(
        self, channel: Channel, first: tuple[int, int], group: Group | None, places: Places
    ) -> Handles:
        # When the group's memory runs out, its kernel ends, and with it everything: one process
        # alone is to meet its own limit before.
        return replace(super()._handles(channel, first, group, places), limits_data=True)

    def _host_tasks(self, spec: SandboxSpec) -> int:
        return spec.limits.pids * HOST_TASKS_EACH + KERNEL_TASKS

    def _filter(self, machine: str) -> bytes:
        return guarded(machine, super()._filter(machine))


def _said(errors: int) -> str:
    return os.pread(errors, 16_384, 0).decode("utf-8", "replace").strip()


__all__: Sequence[str] = ("ContainerProvider", "GvisorProvider")
