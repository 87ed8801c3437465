"""Attempts that need two: a neighbour's sandbox, or a program that swaps links while a tool works.

The tools of a session are held to its own places. A program of the session that puts a link where a
directory was, just after the tool has looked, must not lead them elsewhere.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from intramuros.execution.conformance.verdicts import Check, check
from intramuros.execution.sandbox.base import Sandbox

Making = Callable[[], AbstractAsyncContextManager[Sandbox]]

CALLS: Final = 60
"""Of each tool while links are swapped; the swapping is hundreds of times as fast."""
LASTS_S: Final = 600
"""How long the swapping goes on if nobody stops it; the sandbox's end does."""
ELSEWHERE: Final = "/tmp/elsewhere"  # noqa: S108  inside the sandbox

# renameat2(…, RENAME_EXCHANGE) swaps a directory and a link at once, some 100,000 times a second.
# Not every kernel exchanges (gVisor's does not): there with a moment between, in which a tool may
# have made a directory of the name, which is put aside. A swapper that ends early proves nothing,
# so the careless reader is led out once more when the tools are through.
_SWAPPER: Final = """\
import ctypes, os, platform, sys, time
number = 316 if platform.machine() == "x86_64" else 276
exchange = ctypes.CDLL(None).syscall
place, stray = "/workspace/", 0
until = time.monotonic() + float(sys.argv[1])
def going():
    return time.monotonic() < until and not os.path.exists("/workspace/stop")
def move(a, b):
    global stray
    while going():
        try:
            return os.rename(place + a, place + b)
        except OSError:
            stray += 1
        try:
            os.rename(place + b, place + f"stray{stray}")
        except OSError:
            pass
def swap(a, b):
    if exchange(number, -100, (place + a).encode(), -100, (place + b).encode(), 2):
        for c, d in ((a, "x"), (b, a), ("x", b)):
            move(c, d)
while going():
    swap("d", "l")
    if not os.path.islink("/workspace/d"):
        swap("d/f", "g")
"""
_STAGE: Final = """\
import os
os.makedirs("/tmp/elsewhere"); os.makedirs("/workspace/d")
open("/tmp/elsewhere/f", "w").write("SECRET\\n" * 10)
open("/tmp/elsewhere/SECRET", "w").close()
for n in range(40):
    open(f"/workspace/d/{n}", "w").write("plain\\n")
open("/workspace/d/f", "w").write("plain\\n"); open("/workspace/plain", "w").write("plain\\n")
os.symlink("/tmp/elsewhere", "/workspace/l"); os.symlink("/tmp/elsewhere/f", "/workspace/g")
"""
# What a careless tool does: judge the path, then open it.
CARELESS: Final = """\
import os
met = 0
for _ in range(20000):
    try:
        if os.path.realpath("/workspace/d/f").startswith("/workspace/"):
            met += "SECRET" in open("/workspace/d/f").read()
    except OSError:
        pass
    if met:
        break
print(met)
"""
_TOOLS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("read", {"file_path": "d/f"}),
    ("write", {"file_path": "d/f", "content": "plain\n"}),
    (
        "edit",
        {"file_path": "d/f", "old_string": "SECRET", "new_string": "lost", "replace_all": True},
    ),
    ("glob", {"pattern": "**/*", "path": "d"}),
    ("grep", {"pattern": "SECRET", "path": "d"}),
)


async def swapped_links(sandbox: Sandbox) -> AsyncIterator[Check]:
    """Use every file tool while a program inside swaps what its paths lead to."""
    await sandbox.exec(["python3", "-c", _STAGE])
    await sandbox.call("bash", {"command": f"python3 -c '{_SWAPPER}' {LASTS_S} >/dev/null 2>&1 &"})
    yield await _led_out(sandbox, "the swapping, against a careless reader")
    for tool, arguments in _TOOLS:
        led_out = 0
        for _ in range(CALLS):
            outcome = await sandbox.call(tool, arguments)
            said = str(outcome.content)
            led_out += ("edited" if tool == "edit" else "SECRET") in said
        yield check("races", f"links swapped under {tool}", led_out, "0")
    yield await _led_out(sandbox, "the swapping, when every tool was tried")
    await sandbox.call("bash", {"command": "touch stop"})
    kept = await sandbox.exec(
        ["/bin/sh", "-c", f"cat {ELSEWHERE}/f | sort | uniq -c; ls {ELSEWHERE}"]
    )
    said = " ".join(kept.stdout.decode(errors="replace").split())
    yield check("races", "what the links led to, afterwards", said, "10 SECRET SECRET f")


async def _led_out(sandbox: Sandbox, name: str) -> Check:
    """Say whether a reader that judges paths before it opens them was led out."""
    control = await sandbox.exec(["python3", "-c", CARELESS])
    won = int(control.stdout or b"0") > 0
    return check("races", name, "led out" if won else "never led out", "led out")


async def hard_links(sandbox: Sandbox) -> AsyncIterator[Check]:
    """Try to give a file that is not the session's a name among its own."""
    for source in (
        "/etc/passwd",
        "/usr/bin/env",
        f"{ELSEWHERE}/f",
        "/proc/1/exe",
        "/proc/self/environ",
    ):
        program = f"import os; os.link({source!r}, '/workspace/hard', follow_symlinks=True)"
        done = await sandbox.exec(["python3", "-c", program])
        met = "linked" if done.exit_code == 0 else "refused"
        yield check("races", f"a hard link to {source}", met, "refused")


async def neighbours(make: Making) -> AsyncIterator[Check]:
    """Leave things in one sandbox and look for them in another."""
    secret = secrets.token_hex(8)
    async with make() as first, make() as second:
        await first.exec(["python3", "-c", _LEAVE, secret])
        await first.call("bash", {"command": f"python3 -c '{_SERVE}' {secret} >/dev/null 2>&1 &"})
        wait = "until [ -e /tmp/serving ]; do sleep 0.02; done"
        await first.exec(["timeout", "10", "/bin/sh", "-c", wait])
        met = await second.exec(["python3", "-c", _LOOK, secret])
        found = dict(line.split("=", 1) for line in met.stdout.decode().splitlines() if "=" in line)
        yield check("neighbours", "attempts that ran", len(found), "7")
        for name, outcome in found.items():
            yield check("neighbours", name, outcome, "no")


_LEAVE: Final = """\
import ctypes, os, sys
libc = ctypes.CDLL(None)
key = int(sys.argv[1][:7], 16)
print(libc.shmget(key, 4096, 0o1666), libc.semget(key, 1, 0o1666), libc.msgget(key, 0o1666))
open("/dev/shm/" + sys.argv[1], "w").write(sys.argv[1])
"""
_SERVE: Final = """\
import socket, sys, time
a = socket.socket(socket.AF_UNIX); a.bind(chr(0) + sys.argv[1]); a.listen()
b = socket.create_server(("127.0.0.1", 43210))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 43211))
open("/tmp/serving", "w").close()
time.sleep(60)
"""
_LOOK: Final = """\
import ctypes, os, socket, sys
libc = ctypes.CDLL(None)
key = int(sys.argv[1][:7], 16)
def says(name, met): print(name + "=" + ("yes" if met else "no"))
says("System V shared memory", libc.shmget(key, 0, 0) >= 0)
says("System V semaphores", libc.semget(key, 0, 0) >= 0)
says("System V messages", libc.msgget(key, 0) >= 0)
says("/dev/shm", sys.argv[1] in os.listdir("/dev/shm"))
def met(family, address):
    try:
        with socket.socket(family) as s: s.settimeout(2); s.connect(address)
        return True
    except OSError:
        return False
says("abstract sockets", met(socket.AF_UNIX, chr(0) + sys.argv[1]))
says("loopback", met(socket.AF_INET, ("127.0.0.1", 43210)))
names = [open(f"/proc/{p}/cmdline").read() for p in os.listdir("/proc") if p.isdigit()]
says("its processes", sum(sys.argv[1] in name for name in names) > 1)
"""
