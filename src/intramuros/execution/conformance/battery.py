"""The checks as they are run on a provider: real sandboxes, real attempts, real limits.

What a provider says that it cannot do (:class:`~intramuros.execution.sandbox.base.Capabilities`) is
left out and said; what it says that it can do must hold.
"""

import ctypes
import json
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import anyio

from intramuros.execution.conformance.bombs import bombs
from intramuros.execution.conformance.races import hard_links, neighbours, swapped_links
from intramuros.execution.conformance.verdicts import Check, check, judge, judge_deeper
from intramuros.execution.sandbox.base import (
    MIB,
    ExecResult,
    Limits,
    Provider,
    Sandbox,
    SandboxError,
    SandboxGone,
    SandboxPaused,
    SandboxSpec,
)

SMALL: Final = SandboxSpec(limits=Limits(memory_bytes=256 * MIB, pids=64, tmp_bytes=32 * MIB))
_KINDS: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
_LOW_PIDS: Final = 300
_NEW_FOR_ALL: Final = 0o1666
"""IPC_CREAT, readable and writable to all."""
_NO_PYTHON: Final = "the battery needs python3 in the sandbox's image"

_FORKS: Final = """\
import os
made = 0
try:
    while made < 5000:
        if os.fork() == 0:
            import time
            time.sleep(60)
        made += 1
except OSError as error:
    print("stopped" if made < 70 else made, error.errno)
"""
_MEMORY: Final = "x = []\nwhile True:\n    x.append(bytearray(1 << 24))\n"
_SIGNALS: Final = """\
import os
for number in (9, 19, 15, 2, 1, 11, 13, 17, 25):
    os.kill(1, number)
"""


@dataclass(frozen=True)
class Battery:
    """A run of the checks.

    Args:
        provider: started.
        canary: a value that was in the environment of this process before the provider started.
    """

    provider: Provider
    canary: str

    async def run(self) -> AsyncIterator[Check]:
        """Yield the verdicts as they come.

        Raises:
            SandboxError: a sandbox did not come up at all.
        """
        parts = [self._escape, self._deeper, self._neighbours, self._races, self._limits]
        parts += [self._bombs, self._life, self._pauses]
        isolation = self.provider.capabilities.isolation
        if isolation == "none":
            # The attempts would succeed: signals to all processes there are, for one.
            yield Check("process", "isolation", False, isolation, "some")
            parts = [self._pauses]
        for part in parts:
            async for found in part():
                yield found

    @property
    def _own_kernel(self) -> bool:
        return self.provider.capabilities.isolation in ("user-kernel", "vm")

    @asynccontextmanager
    async def _sandbox(self, spec: SandboxSpec | None = None) -> AsyncIterator[Sandbox]:
        name = f"conformance-{secrets.token_hex(6)}"
        made = await self.provider.create(spec or SandboxSpec(), name)
        try:
            yield made
        finally:
            with anyio.CancelScope(shield=True):
                await made.destroy(keep_workspace=False)

    async def _escape(self) -> AsyncIterator[Check]:
        async with self._sandbox() as sandbox:
            with _listeners() as (tcp, unix, abstract):
                given = {
                    "port": tcp.getsockname()[1],
                    "abstract": abstract,
                    "canary": self.canary,
                    "pid": os.getpid(),
                }
                done = await sandbox.exec(["python3", "-c", script(), json.dumps(given)])
                if done.exit_code != 0:
                    yield Check("process", "the battery runs", False, _said(done), _NO_PYTHON)
                    return
                for found in judge(
                    json.loads(done.stdout), own_namespaces(), own_kernel=self._own_kernel
                ):
                    yield found
                reached = sum(map(_was_reached, (tcp, unix)))
                yield check("network", "calls that reached a listener of the host", reached, "0")

    async def _deeper(self) -> AsyncIterator[Check]:
        async with self._sandbox() as sandbox:
            with (
                _listeners() as (tcp, _, _),
                _shared_memory() as key,
                _planted(self.canary) as path,
            ):
                given = {
                    "port": tcp.getsockname()[1],
                    "canary": self.canary,
                    "pids": _outside(),
                    "shared memory": key,
                    "paths": [str(path), str(path.parent)],
                }
                argv = ["python3", "-c", script("deeper"), json.dumps(given)]
                done = await sandbox.exec(argv)
                if done.exit_code != 0:
                    yield Check("process", "the deeper part runs", False, _said(done), _NO_PYTHON)
                    return
                report = json.loads(done.stdout)
                for found in judge_deeper(report, own_kernel=self._own_kernel):
                    yield found
                reached = _was_reached(tcp)
                yield check("network", "listeners reached by other roads", reached, "False")

    async def _races(self) -> AsyncIterator[Check]:
        async with self._sandbox() as sandbox:
            async for found in swapped_links(sandbox):
                yield found
            async for found in hard_links(sandbox):
                yield found
        async for found in neighbours(self._sandbox):
            yield found

    async def _bombs(self) -> AsyncIterator[Check]:
        async for found in bombs(self.provider.capabilities, self._sandbox):
            yield found

    async def _neighbours(self) -> AsyncIterator[Check]:
        secret = secrets.token_hex(8)
        async with self._sandbox() as first, self._sandbox() as second:
            planted = f"echo {secret} >/workspace/f; echo {secret} >/tmp/f; sleep 60 &"
            await first.call("bash", {"command": planted})
            look = "cat /workspace/f /tmp/f 2>&1; cat /proc/[0-9]*/cmdline 2>&1"
            seen = (await second.exec(["/bin/sh", "-c", look])).stdout.decode(errors="replace")
            yield check("neighbours", "files and processes", secret in seen, "False")
            yield check("neighbours", "processes", "sleep" in seen, "False")

    async def _limits(self) -> AsyncIterator[Check]:
        can = self.provider.capabilities
        async with self._sandbox(SMALL) as sandbox:
            said = await _said_before_the_end(sandbox, _FORKS)
            # A kernel in user space ends when the host gives it no more threads, and all with it.
            wanted = {"stopped 11", "SandboxGone"} if self._own_kernel else {"stopped 11"}
            yield check("limits", "a fork bomb", said, frozenset(wanted))
        async with self._sandbox(SMALL) as sandbox:
            if can.memory_limit != "none":
                done = await sandbox.exec(["python3", "-c", _MEMORY])
                ended = frozenset({"137", "1"})
                yield check("limits", "a memory bomb", done.exit_code, ended)
                alive = await _works(sandbox)
                yield check("limits", "the sandbox after a memory bomb", alive, "works")
            for place in ("/tmp", "/dev/shm"):  # noqa: S108  inside the sandbox
                fill = f"head -c 100000000 /dev/zero >{place}/big; rm {place}/big"
                done = await sandbox.exec(["/bin/sh", "-c", fill])
                full = "full" if b"No space left" in done.stderr else _said(done)
                yield check("limits", f"100 MB in {place}", full, "full")

    async def _life(self) -> AsyncIterator[Check]:
        async with self._sandbox() as sandbox:
            await sandbox.exec(["python3", "-c", _SIGNALS])
            await sandbox.exec(["/bin/sh", "-c", "kill -9 -1"])
            yield check(
                "life", "process 1 after signals from inside", await _works(sandbox), "works"
            )
            marker = f"left-{secrets.token_hex(8)}"
            daemon = f"(setsid nohup bash -c 'exec -a {marker} sleep 600' >/dev/null 2>&1 &)"
            await sandbox.call("bash", {"command": f"{daemon}; sleep 0.1"})
            # Told apart from "it never started"; a kernel in user space shows it inside only.
            seen = await sandbox.exec(["/bin/sh", "-c", "cat /proc/[0-9]*/cmdline 2>&1"])
            began = marker in seen.stdout.decode(errors="replace").replace(f"exec -a {marker}", "")
            await sandbox.destroy(keep_workspace=False)
            left = "left" if marker in command_lines() else "gone"
            yield check("life", "a daemon after the end", left if began else "not started", "gone")
            yield check("life", "a call after the end", await _fails(sandbox), "SandboxGone")

    async def _pauses(self) -> AsyncIterator[Check]:
        if self.provider.capabilities.pause == "none":
            return
        async with self._sandbox() as sandbox:
            await sandbox.call("bash", {"command": "cd /tmp; kept=yes; echo kept >f"})
            await sandbox.pause()
            yield check("life", "a call while paused", await _fails(sandbox), "SandboxPaused")
            await sandbox.resume()
            outcome = await sandbox.call("bash", {"command": 'echo "$kept $PWD $(cat f)"'})
            said = str(outcome.content[0].get("text", "")).strip()
            yield check("life", "the shell after a pause", said, "yes /tmp kept")


def script(name: str = "inside") -> str:
    """Return a program that runs inside: ``inside`` or ``deeper``."""
    return resources.files(__package__).joinpath(f"{name}.py").read_text(encoding="utf-8")


def _outside() -> dict[str, int]:
    """Return processes of the host whose numbers no process inside is likely to have, too."""
    pids = {"the worker": os.getpid(), "the worker's parent": os.getppid()}
    return {name: pid for name, pid in pids.items() if pid > _LOW_PIDS}


@contextmanager
def _planted(canary: str) -> Iterator[Path]:
    """Keep a file with the canary where the host's temporary files are, for anybody to read."""
    with tempfile.TemporaryDirectory(prefix="intramuros-planted-") as directory:
        path = Path(directory, f"planted-{canary[:8]}")
        path.write_text(canary)
        for part, mode in ((path, 0o644), (path.parent, 0o755)):
            part.chmod(mode)
        yield path


@contextmanager
def _shared_memory() -> Iterator[int]:
    """Keep a block of System V shared memory that anybody on the host may use; gives its key."""
    libc = ctypes.CDLL(None, use_errno=True)
    key = secrets.randbelow(1 << 30) + 1
    number = libc.shmget(key, 4096, _NEW_FOR_ALL)
    try:
        yield key
    finally:
        if number >= 0:
            libc.shmctl(number, 0, None)


def own_namespaces() -> dict[str, str]:
    """Return the namespaces of this process, by kind."""
    return {kind: str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in _KINDS}


def command_lines() -> str:
    """Return the command lines of all processes that this one can see."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


@contextmanager
def _listeners() -> Iterator[tuple[socket.socket, socket.socket, str]]:
    """Listen on loopback and on an abstract address, which nobody inside may reach."""
    abstract = f"intramuros-{secrets.token_hex(8)}"
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as tcp,
        closing(socket.socket(socket.AF_UNIX)) as unix,
    ):
        unix.bind("\0" + abstract)
        unix.listen()
        for listener in (tcp, unix):
            listener.setblocking(False)
        yield tcp, unix, abstract


def _was_reached(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


async def _works(sandbox: Sandbox) -> str:
    try:
        outcome = await sandbox.call("bash", {"restart": True})
        outcome = await sandbox.call("bash", {"command": "echo alive"})
    except SandboxError as error:
        return type(error).__name__
    return "works" if outcome.content[0].get("text") == "alive" else str(outcome.content)


async def _said_before_the_end(sandbox: Sandbox, program: str) -> str:
    try:
        return (await sandbox.exec(["python3", "-c", program])).stdout.decode().strip()
    except SandboxGone:
        return SandboxGone.__name__


async def _fails(sandbox: Sandbox) -> str:
    try:
        await sandbox.call("bash", {"command": "true"})
    except (SandboxGone, SandboxPaused) as error:
        return type(error).__name__
    return "it ran"


def _said(done: ExecResult) -> str:
    return f"exit {done.exit_code}: {done.stderr.decode(errors='replace')[-200:]}"
