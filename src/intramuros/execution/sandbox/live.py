"""One live bubblewrap sandbox."""

import os
import select
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import anyio

from intramuros.execution.sandbox import processes
from intramuros.execution.sandbox.attachments import PLAIN, Attaching, Attachment
from intramuros.execution.sandbox.base import (
    WORKSPACE,
    ExecResult,
    SandboxError,
    SandboxGone,
    SandboxPaused,
    SandboxSpec,
    ToolOutcome,
)
from intramuros.execution.sandbox.cgroups import Group
from intramuros.execution.sandbox.channel import Channel
from intramuros.execution.sandbox.drives import Drive
from intramuros.execution.sandbox.keeping import Keeper
from intramuros.execution.sandbox.quota import Quota
from intramuros.execution.sandbox.rootfs import SCRATCH, TRUST, TRUSTING, Python
from intramuros.execution.tools.calls import BadArguments, Call, encode_call
from intramuros.execution.tools.outcomes import decode_answer
from intramuros.kernel.telemetry import logger

MAX_EXEC_OUTPUT = 1024 * 1024
_DEATH_S = 5.0
_FREEZE_S = 2.0
_GRACE_S = 5.0

Ended = Callable[[str, bool], Awaitable[None]]
_log = logger("sandbox")


@dataclass(frozen=True)
class Handles:
    """What the host holds of a sandbox."""

    channel: Channel
    pidfd: int
    """Of its outermost process."""
    pid: int
    group: Group | None
    workspace: Path
    drive: Drive | None = None
    """What holds the workspace to its quota; it is watched where there is none."""
    direct: bool = False
    """Whether the outermost process is process 1 itself, not the parent of it."""
    filter: bytes = b""
    """The system-call filter for process 1 to install; empty where it has one."""
    limits_data: bool = False
    """Whether each process has the memory limit for its data, besides that of the group."""


class LiveSandbox:
    """Implements :class:`~intramuros.execution.sandbox.base.Sandbox`.

    Args:
        ended: called once its processes are gone, with the id and whether to keep the workspace.
    """

    def __init__(self, sandbox_id: str, spec: SandboxSpec, handles: Handles, ended: Ended) -> None:
        self._id = sandbox_id
        self._spec = spec
        self._handles = handles
        self._ended = ended
        self._workdir = WORKSPACE
        self._scratch = tuple(SCRATCH)
        watched = [mount.source for mount in spec.mounts if mount.owned and not mount.read_only]
        if handles.drive is None:
            watched.insert(0, handles.workspace)
        limits = spec.limits
        self._quota = Quota(watched, limits.disk_bytes, limits.disk_files, self._pids)
        self._shell = anyio.Lock(fast_acquire=True)
        self._paused = False
        self._destroyed = False
        self._dies_at = monotonic() + spec.limits.wall_clock_s

    @property
    def sandbox_id(self) -> str:
        """The id it was created with."""
        return self._id

    @property
    def alive(self) -> bool:
        """False once its processes are gone."""
        if self._destroyed or self._handles.channel.closed:
            return False
        ended = select.poll()
        ended.register(self._handles.pidfd, select.POLLIN)
        return not ended.poll(0)

    @property
    def host_pid(self) -> int:
        """Host pid of its outermost process."""
        return self._handles.pid

    @property
    def keeper(self) -> Keeper:
        """What saves and loads its files and its shell."""
        roots = {WORKSPACE: self._workdir, **{place: place for place in self._scratch}}
        limits = self._spec.limits
        return Keeper(
            self._handles.channel, roots, limits.disk_bytes + len(self._scratch) * limits.tmp_bytes
        )

    def network(self) -> int:
        """Return a descriptor of its network namespace, which the caller closes."""
        inner = self._inner()
        if inner is None or not self.alive:
            raise SandboxGone(f"sandbox {self._id} is gone")
        try:
            pinned = os.open(f"/proc/{inner}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise SandboxGone(f"sandbox {self._id} is gone") from error
        try:
            # Its number may have gone to another process before it was pinned, but never after.
            if self._inner() != inner or not self.alive:
                raise SandboxGone(f"sandbox {self._id} is gone")
            return os.open("ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=pinned)
        except OSError as error:
            raise SandboxError(f"sandbox {self._id} does not show its network") from error
        finally:
            os.close(pinned)

    @property
    def handles(self) -> Handles:
        """What the host holds of it."""
        return self._handles

    def _inner(self) -> int | None:
        """Return the host pid of its process 1."""
        pid = self._handles.pid
        return pid if self._handles.direct else processes.first_child(pid)

    async def configure(self, python: Python) -> None:
        """Give process 1 its settings and wait until it serves."""
        await self._handles.channel.configure(self._settings(python))

    def _settings(self, python: Python) -> dict[str, bytes]:
        limits = self._spec.limits
        in_group = self._handles.group.paths if self._handles.group else {}
        return {
            "workdir": self._workdir.encode(),
            **self._personal(python),
            "open_files": b"%d" % limits.open_files,
            "processes": b"%d" % limits.pids,
            "file_bytes": b"%d" % limits.disk_bytes,
            "address_space": b"-1" if "memory" in in_group else b"%d" % limits.memory_bytes,
            "data": b"%d" % (limits.memory_bytes if self._handles.limits_data else -1),
            "filter": self._handles.filter,
        }

    async def warm(self) -> None:
        """Start what the first call would wait for."""
        await self._handles.channel.request("restart", {})

    async def adopt(self, python: Python) -> None:
        """Give a process 1 that serves already what is this sandbox's own."""
        await self._handles.channel.request("adopt", self._personal(python))

    def _personal(self, python: Python) -> dict[str, bytes]:
        mounts = self._spec.mounts
        return {
            "roots": _joined([mount.target for mount in mounts]),
            "read_only": _joined([mount.target for mount in mounts if mount.read_only]),
            "env": _joined([f"{k}={v}" for k, v in self._environment(python).items()]),
        }

    def _environment(self, python: Python) -> dict[str, str]:
        base = {
            "PATH": ":".join([*self._spec.path, python.path]),
            "HOME": "/home/agent",
            "USER": self._spec.user,
            "LOGNAME": self._spec.user,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "PWD": self._workdir,
        }
        if self._spec.trust is not None:
            base |= dict.fromkeys(TRUSTING, TRUST)
        given = self._spec.environment
        # The vendor's own variables never reach a shell (contract 23.9).
        return base | {k: v for k, v in given.items() if not k.startswith("ANTHROPIC_")}

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        """Run one tool of the agent toolset."""
        try:
            request = encode_call(tool, arguments)
        except BadArguments as error:
            return ToolOutcome.text(str(error), is_error=True)
        self._check_usable()
        if tool == "bash":
            return await self._run_command(request)
        if tool == "write" and await self._quota.is_over():
            return ToolOutcome.text(self._quota.message(tool), is_error=True)
        return decode_answer(request, await self._handles.channel.request("tool", request.fields))

    async def _run_command(self, request: Call) -> ToolOutcome:
        """Run a command and stop it when the workspace outgrows its quota meanwhile."""
        answer: dict[str, bytes] | None = None
        failure: SandboxError | None = None
        async with self._shell, anyio.create_task_group() as tasks:
            tasks.start_soon(self._quota.wait_until_over, tasks.cancel_scope)
            try:
                answer = await self._handles.channel.request(request.op, request.fields)
            except SandboxError as error:
                failure = error  # raised below: a task group would wrap it
            self._quota.changed()
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if answer is None:
            return ToolOutcome.text(self._quota.message("bash"), is_error=True)
        return decode_answer(request, answer)

    async def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
    ) -> ExecResult:
        """Run one program outside the persistent shell, as the sandbox's user."""
        self._check_usable()
        fields = {
            "argv": _joined(argv),
            "env": _joined([f"{k}={v}" for k, v in (env or {}).items()]),
            "cwd": (cwd or self._workdir).encode(),
            "stdin": stdin,
            "timeout_ms": b"%d" % int(timeout_s * 1000),
            "limit": b"%d" % MAX_EXEC_OUTPUT,
        }
        with anyio.fail_after(timeout_s + _GRACE_S):
            answer = await self._handles.channel.request("exec", fields)
        if "error" in answer:
            raise SandboxError(answer["error"].decode("utf-8", "replace"))
        try:
            return ExecResult(
                exit_code=int(answer["code"]),
                stdout=answer["stdout"],
                stderr=answer["stderr"],
                truncated="truncated" in answer,
                timed_out="timed_out" in answer,
            )
        except (KeyError, ValueError) as error:
            raise SandboxError("the sandbox answered something else than asked") from error

    @asynccontextmanager
    async def attach(
        self, argv: Sequence[str], options: Attaching = PLAIN
    ) -> AsyncIterator[Attachment]:
        """Run a program whose input and output travel as they come; leaving ends it."""
        self._check_usable()
        fields = options.fields(argv)
        async with self._handles.channel.open(fields) as wire:
            yield Attachment(wire)

    def _check_usable(self) -> None:
        if not self.alive:
            raise SandboxGone(f"sandbox {self._id} is gone")
        if self._paused:
            raise SandboxPaused(f"sandbox {self._id} is paused")
        if monotonic() > self._dies_at:
            raise SandboxGone(f"sandbox {self._id} is older than its wall-clock limit")

    def _pids(self) -> Collection[int]:
        if self._handles.group is not None:
            return self._handles.group.pids()
        return processes.descendants(self._handles.pid, processes.parents())

    async def enforce_quota(self) -> None:
        """End the sandbox when something in the background fills the disk past its quota."""
        if self.alive and not self._paused and await self._quota.grew_over():
            _log.warning("sandbox_over_quota", sandbox=self._id)
            await self.destroy()

    async def pause(self) -> None:
        """Stop every process where it stands; memory is kept. Idempotent."""
        if not self.alive:
            raise SandboxGone(f"sandbox {self._id} is gone")
        self._paused = True
        group = self._handles.group
        if group is None or not group.can_freeze:
            processes.signal_tree(self._handles.pid, signal.SIGSTOP)
            return
        try:
            group.freeze(True)
            with anyio.fail_after(_FREEZE_S):
                while not group.is_frozen():  # noqa: ASYNC110 - the kernel gives no event on v1
                    await anyio.sleep(0.001)
        except (OSError, TimeoutError) as error:
            raise SandboxError(f"sandbox {self._id} does not freeze") from error

    async def resume(self) -> None:
        """Let every process go on. Idempotent."""
        group = self._handles.group
        if group is None or not group.can_freeze:
            processes.signal_tree(self._handles.pid, signal.SIGCONT)
        else:
            with suppress(FileNotFoundError):
                group.freeze(False)
        self._paused = False

    async def destroy(self, *, keep_workspace: bool = True) -> None:
        """Kill every process and remove what the host held for it. Idempotent."""
        if self._destroyed:
            return
        self._destroyed = True
        with anyio.CancelScope(shield=True):
            await self.resume()
            self._handles.channel.close()
            inner = self._inner()
            if inner is not None:
                # The death of a namespace's process 1 kills all in it.
                with suppress(ProcessLookupError):
                    os.kill(inner, signal.SIGKILL)
            await self._await_death()
            os.close(self._handles.pidfd)
            await self._ended(self._id, keep_workspace)

    async def _await_death(self) -> None:
        with anyio.move_on_after(_DEATH_S):
            await anyio.wait_readable(self._handles.pidfd)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handles.pidfd, signal.SIGKILL)
        group = self._handles.group
        if group is None:
            return
        with anyio.move_on_after(_DEATH_S):
            while not group.remove():
                for pid in group.pids():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await anyio.sleep(0.001)


def _joined(words: Sequence[str]) -> bytes:
    for word in words:
        if "\0" in word:
            raise SandboxError("a NUL byte is not allowed here")
    return b"\0".join(word.encode() for word in words)
