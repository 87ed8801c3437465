"""The worker's side of the grafter process: mounts for a sandbox that runs already."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import anyio

from intramuros.execution.sandbox import grafter, processes
from intramuros.execution.sandbox.base import Mount, SandboxError, SandboxGone

_ANSWER_S: Final = 10.0


class Grafter:
    """Starts the grafter when first needed, again should it die, and asks it for mounts."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._lock = anyio.Lock()

    async def show(self, outer: int, mounts: Sequence[Mount], uid: int | None) -> None:
        """Show host files and directories in a sandbox in which nothing of the model's has run.

        Args:
            outer: pid of its outermost process.
            uid: its host uid; None when that is the worker's own.

        Raises:
            SandboxError: not all of them could be shown; destroy the sandbox.
        """
        if not mounts:
            return
        listed = [
            {"source": str(one.source), "target": one.target, "read_only": one.read_only}
            for one in mounts
        ]
        request = json.dumps({"uid": uid, "mounts": listed}).encode()
        if len(request) > grafter.MAX_PACKET:
            raise SandboxError("the sandbox has too many mounts to describe")
        with ExitStack() as stack:
            fds = _namespaces(outer, stack)
            answer = await self._ask(request, fds)
        if answer != b"{}":
            said = json.loads(answer).get("error") if answer else "its helper died"
            raise SandboxError(f"the sandbox cannot be given its mounts ({said})")

    async def _ask(self, request: bytes, fds: list[int]) -> bytes:
        async with self._lock:
            channel = self._ensure()
            answer = b""
            try:
                # Its answer must not be left behind for the next request to read.
                with anyio.fail_after(_ANSWER_S, shield=True):
                    await anyio.wait_writable(channel)
                    socket.send_fds(channel, [request], fds)
                    await anyio.wait_readable(channel)
                    answer = channel.recv(grafter.MAX_PACKET)
            except (OSError, TimeoutError) as error:
                raise SandboxError("the sandbox cannot be given its mounts") from error
            finally:
                if not answer:
                    self.close()
        return answer

    def _ensure(self) -> socket.socket:
        # Started from the event loop's thread: the grafter dies with the thread that made it.
        if self._channel is not None and self._process is not None and self._process.poll() is None:
            return self._channel
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * grafter.MAX_PACKET)
            self._process = subprocess.Popen(  # noqa: S603 - our own file
                [sys.executable, "-I", "-S", str(Path(grafter.__file__)), str(theirs.fileno())],
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
        """End the grafter; what it showed stays. Idempotent."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _namespaces(outer: int, stack: ExitStack) -> list[int]:
    """Open the mount namespace of a sandbox and the user namespace it was made in."""
    inner = processes.first_child(outer)
    if inner is None:
        raise SandboxGone("the sandbox is gone")
    try:
        opened = []
        for path in (f"/proc/{inner}/ns/mnt", f"/proc/{outer}/ns/user"):
            opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            stack.callback(os.close, opened[-1])
    except OSError as error:
        raise SandboxGone("the sandbox is gone") from error
    # Its number may have gone to another process before it was opened, but never after.
    if processes.first_child(outer) != inner:
        raise SandboxGone("the sandbox is gone")
    return opened
