"""Attempts on what everybody on the host shares: processors, memory, disk, files, time.

Each bomb goes off inside; the limit must hold, and the sandbox must be of use afterwards.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

from intramuros.execution.conformance.verdicts import Check, check
from intramuros.execution.sandbox.base import (
    MIB,
    Capabilities,
    Limits,
    Sandbox,
    SandboxError,
    SandboxGone,
    SandboxSpec,
)

Making = Callable[[SandboxSpec], AbstractAsyncContextManager[Sandbox]]

_LIMITS: Final = Limits(
    cpus=0.5,
    memory_bytes=256 * MIB,
    pids=64,
    tmp_bytes=32 * MIB,
    disk_bytes=64 * MIB,
    disk_files=10_000,
)
SMALL: Final = SandboxSpec(limits=_LIMITS)
FLOOD_BYTES: Final = 50 * MIB
_HALF_S: Final = 1.5
_SOON_S: Final = 10.0
_LONG_S: Final = 60.0
_ENOUGH: Final = 2 * MIB
"""More than any tool answers with, once it is text."""

_INODES: Final = """\
import os, sys
made = 0
try:
    while made < 300000:
        os.close(os.open(f"{sys.argv[1]}/{made}", os.O_CREAT | os.O_WRONLY)); made += 1
except OSError as error:
    print(error.errno)
"""
_DESCRIPTORS: Final = """\
import os
made = 0
try:
    while made < 100000:
        os.dup(0); made += 1
except OSError as error:
    print(error.errno)
"""
_FILL: Final = """\
import os, sys
part, made = bytes(1 << 22), 0
try:
    while made < 40:
        with open(f"/workspace/b{made}", "wb", 0) as file:
            left = len(part)
            while left:
                left -= file.write(part[:left])
        made += 1
except OSError as error:
    print(error.errno)
"""
_BIG_FILE: Final = """\
import os, sys
with open("/workspace/sparse", "wb") as file:
    try:
        file.truncate(1 << 40)
        print("made")
    except OSError as error:
        print("refused")
"""
_THREADS: Final = """\
import threading, time
made = 0
try:
    while made < 5000:
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start(); made += 1
except RuntimeError:
    print("stopped" if made < 70 else made, flush=True)
import os; os._exit(0)
"""
_SPIN: Final = """\
import multiprocessing, os, resource, time
def spin():
    until = time.monotonic() + 1.5
    while time.monotonic() < until: pass
workers = [multiprocessing.Process(target=spin) for _ in range(4)]
[w.start() for w in workers]; [w.join() for w in workers]
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""
_MAPPED: Final = """\
import mmap
m = mmap.mmap(-1, 1 << 30)
for at in range(0, 1 << 30, 4096): m[at] = 1
"""


@dataclass(frozen=True)
class _Bomb:
    """A program, and what it must say before it ends."""

    name: str
    argv: tuple[str, ...]
    wanted: frozenset[str] | str


_PLACES: Final = ("/tmp", "/dev/shm", "/home/agent")  # noqa: S108  inside the sandbox
_BOMBS: Final = (
    *(_Bomb(f"files without end in {place}", (_INODES, place), "28") for place in _PLACES),
    _Bomb("descriptors without end", (_DESCRIPTORS,), "24"),
    _Bomb("threads without end", (_THREADS,), "stopped"),
    _Bomb("a file of a terabyte that holds nothing", (_BIG_FILE,), "refused"),
)


async def bombs(can: Capabilities, make: Making) -> AsyncIterator[Check]:
    """Set off one bomb after another, each in a sandbox of its own."""
    # A kernel in user space may end of what it is refused, and all in it with it: that holds, too.
    gone = frozenset({"SandboxGone"} if can.isolation in ("user-kernel", "vm") else ())
    for bomb in _BOMBS:
        wanted = frozenset({bomb.wanted} if isinstance(bomb.wanted, str) else bomb.wanted)
        found = await _set_off(make, bomb.argv)
        yield check("limits", bomb.name, found[1] or found[0], wanted | gone)
    if can.memory_limit != "none":
        found = await _set_off(make, (_MAPPED,))
        yield check("limits", "a gigabyte mapped and touched", found[0], {"137", "1"} | gone)
    # A kernel in user space counts its own waiting for the host's processors as work.
    if can.cpu_limit and not gone:
        used_s = float((await _set_off(make, (_SPIN,)))[1] or "99")
        # Half a processor for 1.5 s and a little, shared by four that would take all there are.
        held = "held" if used_s < _HALF_S else f"{used_s:.1f} s"
        yield check("limits", "four busy processes on half a processor", held, "held")
    async with make(SMALL) as sandbox:
        async for one in _commands(sandbox):
            yield one
    if can.disk_quota == "hard":
        async for one in _hard_disk(make, gone):
            yield one
    elif can.disk_quota == "watched":
        async for one in _watched_disk(make):
            yield one
    async for one in _time(make):
        yield one


async def _set_off(make: Making, program: tuple[str, ...]) -> tuple[str, str]:
    """Return a program's exit status and what it said, or the error's name in place of both."""
    try:
        async with make(SMALL) as sandbox:
            done = await sandbox.exec(["python3", "-c", *program])
    except SandboxGone as error:
        return type(error).__name__, type(error).__name__
    return str(done.exit_code), done.stdout.decode(errors="replace").strip()


async def _commands(sandbox: Sandbox) -> AsyncIterator[Check]:
    flood = f"head -c {FLOOD_BYTES} /dev/zero | tr '\\0' y"
    outcome = await sandbox.call("bash", {"command": flood})
    size = len(str(outcome.content))
    yield check("limits", "output without end", "cut" if size < _ENOUGH else size, "cut")
    began = monotonic()
    outcome = await sandbox.call("bash", {"command": "sleep 60 & sleep 60", "timeout_ms": 300})
    slow = monotonic() - began > _SOON_S
    met = "stopped" if outcome.is_error and not slow else "ran on"
    yield check("limits", "a command past its time", met, "stopped")
    await sandbox.call("bash", {"restart": True})
    outcome = await sandbox.call("bash", {"command": "echo alive"})
    said = str(outcome.content[0].get("text"))
    yield check("limits", "the shell after all that", said, "alive")


async def _hard_disk(make: Making, gone: frozenset[str]) -> AsyncIterator[Check]:
    """The kernel itself says that nothing is left (ENOSPC), and means this sandbox alone."""
    async with make(SMALL) as neighbour:
        for name, program in (("bytes", (_FILL,)), ("files", (_INODES, "/workspace"))):
            async with make(SMALL) as sandbox:
                try:
                    done = await sandbox.exec(["python3", "-c", *program], timeout_s=_LONG_S)
                    met = done.stdout.decode(errors="replace").strip()
                except SandboxGone as error:
                    met = type(error).__name__
                wanted = gone | {"28"}
                yield check("limits", f"{name} without end in the workspace", met, wanted)
                wrote = await neighbour.call("write", {"file_path": name, "content": "x" * 8192})
                met = "refused" if wrote.is_error else "has room"
                yield check("limits", f"a neighbour of {name} without end", met, "has room")


async def _watched_disk(make: Making) -> AsyncIterator[Check]:
    async with make(SMALL) as sandbox:
        # Until it is seen, it goes on: a while after the last file it is still at work.
        program = f"python3 -c '{_INODES}\nimport time; time.sleep(9)' /workspace"
        outcome = await sandbox.call("bash", {"command": program})
        met = "stopped" if outcome.is_error else "let through"
        yield check("limits", "files without end in the workspace", met, "stopped")
    async with make(SMALL) as sandbox:
        fill = "for n in $(seq 40); do head -c 4194304 /dev/zero >b$n || break; sleep 0.1; done"
        outcome = await sandbox.call("bash", {"command": fill})
        more = await sandbox.call("write", {"file_path": "more", "content": "x" * 8192})
        met = "stopped" if outcome.is_error or more.is_error else "let through"
        yield check("limits", "a disk filled past its quota", met, "stopped")


async def _time(make: Making) -> AsyncIterator[Check]:
    aged = replace(SMALL, limits=replace(_LIMITS, wall_clock_s=0.5))
    try:
        async with make(aged) as sandbox:
            await sandbox.call("bash", {"command": "sleep 0.6"})
            await sandbox.call("bash", {"command": "true"})
    except SandboxGone:
        met = "gone"
    except SandboxError as error:
        met = type(error).__name__
    else:
        met = "ran on"
    yield check("limits", "a sandbox past its age", met, "gone")
