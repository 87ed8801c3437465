"""The worker's side of the launcher process."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import anyio

from intramuros.execution.sandbox import launcher
from intramuros.execution.sandbox.base import SandboxError

_ANSWER_S = 10.0


@dataclass(frozen=True)
class Ids:
    """What 0 and 1000 of a user namespace are outside."""

    uids: tuple[int, int]
    gids: tuple[int, int]
    tools: tuple[str, str] | None = None
    """``newuidmap`` and ``newgidmap``, without which only root gives out ids."""


@dataclass(frozen=True)
class Request:
    """A program to become the outermost process of a sandbox."""

    argv: list[str]
    program: str
    """Path of the executable, as seen once the sources are staged."""
    fds: dict[int, int]
    """Its descriptors: number inside → index among those sent along; 2 takes error messages."""
    stage: list[str]
    """Host paths shown as ``launcher.STAGE/<index>``; those without a slash before are on the
    drive."""
    scratch: list[str]
    """Mount options of fresh tmpfs, shown after those."""
    uid: int | None
    """Host uid to become; None keeps the worker's, which then must not be root."""
    gid: int | None
    cgroups: list[str] = field(default_factory=list)
    """``cgroup.procs`` files to enter first."""
    contain: Ids | None = None
    """Start it as root of a user namespace with these ids instead."""
    overlays: list[list[int]] = field(default_factory=list)
    """Read-only overlays of what is staged, by index, uppermost first; shown after the scratch."""
    hide: list[str] = field(default_factory=list)
    """Mounts of the host that a contained program must not see."""
    processes: int | None = None
    """How many its namespace may have, where no control group says so (RLIMIT_NPROC)."""
    drive: str | None = None
    """A device whose file system is mounted for it."""
    bare: bool = False
    """Start it as the worker's user, where it sees all that the worker sees."""
    env: dict[str, str] = field(default_factory=dict)


class Zygote:
    """Starts the launcher when first needed, again should it die, and asks it for processes."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._lock = anyio.Lock()

    async def launch(self, request: Request, fds: list[int]) -> tuple[int, int]:
        """Return the new process's pid and a pidfd, which the caller closes.

        Raises:
            SandboxError: the launcher could not make a process.
        """
        data = json.dumps(asdict(request)).encode()
        if len(data) > launcher.MAX_PACKET:
            raise SandboxError("the sandbox has too many mounts to describe")
        async with self._lock:
            channel = self._ensure()
            try:
                with anyio.fail_after(_ANSWER_S, shield=True):
                    await anyio.wait_writable(channel)
                    socket.send_fds(channel, [data], fds)
                    await anyio.wait_readable(channel)
                    answer, passed, _, _ = socket.recv_fds(channel, launcher.MAX_PACKET, 1)
            except (OSError, TimeoutError) as error:
                self.close()
                raise SandboxError("the sandbox launcher died; try again") from error
        fields = json.loads(answer) if answer else {"error": "the sandbox launcher died; try again"}
        if "pid" not in fields or not passed:
            if not answer:
                self.close()
            if "pid" in fields:
                # We may hold no more descriptors, and nobody else knows of this process.
                with suppress(ProcessLookupError):
                    os.kill(int(fields["pid"]), signal.SIGKILL)
                fields = {"error": "the worker has too many files open"}
            raise SandboxError(f"could not start a sandbox: {fields.get('error')}")
        return int(fields["pid"]), passed[0]

    def _ensure(self) -> socket.socket:
        # Started from the event loop's thread: the launcher dies with the thread that made it.
        if self._channel is not None and self._process is not None and self._process.poll() is None:
            return self._channel
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * launcher.MAX_PACKET)
            script = str(Path(launcher.__file__))
            argv = [sys.executable, "-I", "-S", script, str(theirs.fileno())]
            self._process = subprocess.Popen(  # noqa: S603 - our own file
                argv,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ours.setblocking(False)
        self._channel = ours
        return ours

    def close(self) -> None:
        """End the launcher, and with it every sandbox it started. Idempotent."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
