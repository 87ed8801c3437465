"""Ways to take more disk than a watched quota allows, as code inside a sandbox would try them."""

from dataclasses import replace

import anyio
import pytest

from intramuros.execution.sandbox.base import MIB, Limits, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.quota import usage_bytes

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

SMALL = SandboxSpec(limits=replace(Limits(), disk_bytes=20 * MIB))
FILL = "for n in $(seq 12); do head -c 5242880 /dev/zero > f$n; done"

# A path that no system call takes.
DEEP = f"""cd /workspace; name=$(printf 'd%.0s' $(seq 100))
for n in $(seq 60); do mkdir $name; cd $name; done; {FILL}"""
# A directory that its owner, whom an unprivileged worker shares, may not read.
CLOSED = """cd /workspace
for n in $(seq 12); do mkdir c$n; head -c 5242880 /dev/zero > c$n/f; chmod 0 c$n; done; sleep 3"""
# Files that only open descriptors keep.
NAMELESS = """cd /workspace; python3 -c '
import os, time
held = []
for n in range(12):
    held.append(open("u", "wb")); os.unlink("u"); held[-1].write(bytes(5 << 20)); held[-1].flush()
time.sleep(10)'"""
# The same by a process that closes itself to all but root: its descriptors cannot be looked at.
UNSEEN = NAMELESS.replace(
    "held = []", 'held = []; __import__("ctypes").CDLL(None).prctl(4, 0, 0, 0, 0)'
)
# More levels than anybody has descriptors for.
ABYSS = (
    'cd /workspace; python3 -c \'import os\nfor _ in range(3000): os.mkdir("d"); os.chdir("d")\''
)


@pytest.mark.parametrize("script", [DEEP, CLOSED, NAMELESS, UNSEEN, ABYSS])
async def test_no_hiding_place_counts_for_nothing(
    undriven: BubblewrapProvider, script: str
) -> None:
    sandbox = await undriven.create(SMALL, "sesn_hider")
    done = await sandbox.call("bash", {"command": script})
    after = await sandbox.call("write", {"file_path": "more", "content": "x"})
    refusals = [one.content[0]["text"] for one in (done, after) if one.is_error]
    assert any("the workspace " in text for text in refusals)
    await sandbox.destroy()
    await undriven.forget("sesn_hider")


async def test_what_a_command_wrote_since_the_last_look_counts(
    undriven: BubblewrapProvider,
) -> None:
    sandbox = await undriven.create(SMALL, "sesn_quick")
    first = await sandbox.call("write", {"file_path": "small", "content": "x"})
    await sandbox.call("bash", {"command": FILL})
    second = await sandbox.call("write", {"file_path": "more", "content": "x"})
    assert (first.is_error, second.is_error) == (False, True)
    assert "over its disk quota" in second.content[0]["text"]


async def test_our_own_closed_processes_are_not_taken_for_hiding(
    undriven: BubblewrapProvider,
) -> None:
    sandbox = await undriven.create(SMALL, "sesn_own")
    for number in range(3):
        assert not (await sandbox.call("bash", {"command": "sleep 0.7"})).is_error
        outcome = await sandbox.call("write", {"file_path": f"f{number}", "content": "x"})
        assert not outcome.is_error, outcome.content


async def test_what_runs_on_after_its_command_is_watched_too(undriven: BubblewrapProvider) -> None:
    sandbox = await undriven.create(SMALL, "sesn_slow")
    workspace = undriven._workspaces.path("sesn_slow")
    command = (
        "(for n in $(seq 200); do head -c 5242880 /dev/zero > b$n; sleep 0.1; done)"
        " > /dev/null 2>&1 & echo"
    )
    async with anyio.create_task_group() as group:
        group.start_soon(undriven.watch)
        assert not (await sandbox.call("bash", {"command": command})).is_error
        with anyio.fail_after(60):
            while sandbox.alive:  # noqa: ASYNC110  a process dies; nothing sets an event
                await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    assert 20 * MIB < usage_bytes(workspace) < 200 * MIB
